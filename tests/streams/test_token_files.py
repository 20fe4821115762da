"""Tokens in files: the same windows as from memory, tokenised once, anew where something changed, whole or not at all."""

import json
import random
import subprocess
import sys

import pytest
import torch

from frostline.core.checks import UsageError
from frostline.core.digests import data_digests
from frostline.records.results import read
from frostline.streams import text_domains
from frostline.streams.text_domains import language
from tests.conftest import in_process


@pytest.fixture
def texts(tmp_path):
    rng = random.Random(0)
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, words in (("one", "alpha beta gamma"), ("two", "delta epsilon zeta")):
        rows = [{"text": " ".join(rng.choices(words.split(), k=30))} for _ in range(300)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def windows(source):
    batches = list(source.batches(7, torch.randperm(len(source), generator=torch.Generator().manual_seed(0))))
    return [torch.cat([getattr(b, name) for b in batches]) for name in ("x", "y", "task", "index")]


@pytest.mark.parametrize("limit", [None, 6000])
def test_windows_are_those_from_memory(texts, tmp_path, limit):
    settings = {"length": 32, "tokens_per_task": limit, "held_out": ["two"]}
    memory, files = (language(str(texts), token_folder=place, **settings) for place in (None, str(tmp_path / "t")))
    assert len(memory.tasks) == len(files.tasks) == 1
    pairs = [
        (m, f)
        for a, b in zip(memory.tasks, files.tasks, strict=True)
        for m, f in ((a.train, b.train), (a.test, b.test))
    ]
    for m, f in [*pairs, (memory.suites[0].source, files.suites[0].source)]:
        assert len(m) == len(f) > 3
        for ours, theirs in zip(windows(m), windows(f), strict=True):
            assert ours.equal(theirs)
            assert ours.dtype == theirs.dtype
        assert m.labels.equal(f.labels.long())
        assert m.nbytes == f.nbytes
        first, second = (next(iter(s.batches(5, samples=False))) for s in (m, f))
        assert first.x.shape == second.x.shape
        assert first.y.equal(second.y)


def test_a_corpus_is_tokenised_once_and_anew_when_it_changed(texts, tmp_path, monkeypatch):
    place = str(tmp_path / "tokens")
    first = language(str(texts), length=32, token_folder=place)
    digests = data_digests(first)
    made = sorted((tmp_path / "tokens").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(text_domains._Reading, "_read", None)  # would be called
        again = language(str(texts), length=32, token_folder=place)
        assert data_digests(again) == digests
        assert data_digests(language(str(texts), length=16, token_folder=place)) != digests
    assert sorted((tmp_path / "tokens").iterdir()) == made
    with (texts / "one.jsonl").open("a") as f:
        f.write('\n{"text": "something else entirely"}')
    assert data_digests(language(str(texts), length=32, token_folder=place)) != digests


def test_what_a_kill_leaves_is_written_anew(texts, tmp_path, monkeypatch):
    place = tmp_path / "tokens"

    def killed(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(text_domains._Side, "flush", killed)
    with pytest.raises(KeyboardInterrupt):
        language(str(texts), length=32, token_folder=str(place))
    monkeypatch.undo()
    assert not list(place.iterdir())
    assert_as_from_memory(texts, place)


def assert_as_from_memory(texts, place):
    found, wanted = (language(str(texts), length=32, token_folder=folder) for folder in (str(place), None))
    for a, b in zip(found.tasks, wanted.tasks, strict=True):
        assert windows(a.train)[0].equal(windows(b.train)[0])


@pytest.mark.parametrize("damage", ["cut", "no note", "odd note"])
def test_a_damaged_file_is_written_anew(texts, tmp_path, damage):
    place = tmp_path / "tokens"
    language(str(texts), length=32, token_folder=str(place))
    for file in place.glob("*.tokens"):
        if damage == "cut":
            file.write_bytes(file.read_bytes()[:-400])
        else:
            note = file.with_suffix(".json")
            note.unlink() if damage == "no note" else note.write_text('{"tok')
    assert_as_from_memory(texts, place)


def test_several_processes_may_make_the_same_files(texts, tmp_path):
    place = tmp_path / "tokens"
    call = f"language({str(texts)!r}, length=32, token_folder={str(place)!r})"
    program = f"from frostline.streams.text_domains import language; {call}"
    children = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert sorted(path.suffix for path in place.iterdir()) == [".json"] * 4 + [".tokens"] * 4
    assert_as_from_memory(texts, place)


def test_files_that_may_only_be_read_are_read(texts, tmp_path):
    place = tmp_path / "tokens"
    language(str(texts), length=32, token_folder=str(place))
    for file in place.iterdir():
        file.chmod(0o444)
    opened = language(str(texts), length=32, token_folder=str(place)).tasks[0].train
    assert opened.tokens.mode == "c"  # type: ignore[attr-defined]  # nothing is written back
    assert len(windows(opened)[0])


def test_a_change_is_seen_where_the_place_is_named_from_home(texts, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = {"path": {"one": "~/texts/one.jsonl"}, "length": 32, "token_folder": "~/tokens"}
    before = data_digests(language(**settings))
    assert list((tmp_path / "tokens").glob("one-*.tokens"))
    with (texts / "one.jsonl").open("a") as f:
        f.write('\n{"text": "something else entirely"}')
    assert data_digests(language(**settings)) != before


def test_a_folder_that_cannot_be_made_is_named(texts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"stream\.token_folder=FOLDER"):
        language(str(texts), length=32, token_folder=str(tmp_path / "file" / "tokens"))


def test_some_are_held_out_and_mixtures_refused(texts, tmp_path):
    place = str(tmp_path / "tokens")
    task = language(str(texts), length=32, token_folder=place, validation=0.25).tasks[0]
    whole = language(str(texts), length=32, token_folder=place).tasks[0]
    assert task.validation is not None
    assert torch.cat([windows(task.train)[1], windows(task.validation)[1]]).shape == windows(whole.train)[1].shape
    assert torch.cat([task.train.labels, task.validation.labels]).equal(whole.train.labels)
    with pytest.raises(UsageError, match="'one\\+two' are several"):
        language(str(texts), tasks=["one+two"], length=32, token_folder=place)


@pytest.mark.parametrize("more", [(), ("trainer.seeds=[0,1]",), ("strategy=replay", "strategy.replay.capacity=20")])
def test_a_run_learns_the_same_from_files(texts, tmp_path, more):
    found = []
    for name, place in (("a", "null"), ("b", tmp_path / "tokens")):
        code, error = in_process(
            "stream=language", f"stream.path={texts}", "stream.length=32", f"stream.token_folder={place}", "model=decoder",
            "model.width=16", "model.heads=2", "model.hidden=16", "model.depth=2", "trainer.epochs=1", "optimizer.lr=0.01",
            "selector=last_k", "selector.k=1", "trainer.prefix_cache=on", *more, f"hydra.run.dir={tmp_path / name}",
        )  # fmt: skip
        assert code == 0, error
        folder = next((tmp_path / name).rglob("result.json")).parent
        found.append(read(folder))
    assert torch.tensor(found[0]["loss"][-1]).allclose(torch.tensor(found[1]["loss"][-1]), rtol=1e-4)
    flops = [[row["flops"] for row in content["ledger"]] for content in found]
    assert flops[0] == flops[1]
