"""Papers' protocols: each holds together, and one in small is run, stopped, gone on with and judged."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from frostline.app.config import check, compose_config, papers_dir
from frostline.app.reproduce import _works, reproduce, show_papers
from frostline.core.checks import UsageError
from frostline.report.reproductions import PROTOCOL, RESULT, Claim, Outcome, bounds, measured, read_paper, read_result

PAPERS = sorted(path.parent.name for path in papers_dir().glob(f"*/{PROTOCOL}"))

SMALL = """
title: A paper [in small]
settings: [stream=split_digits, stream.scenario=task, model=mlp, trainer.max_steps=3]
seeds: 2
least: 60
runs:
  full: [strategy=finetune]
  part: [strategy=partial, selector=last_k]
claims:
  full: {published: 70, spread: 1}
  forgotten: {run: full, value: forgetting, published: 0.1}
  cheaper: {run: part, over: full, value: flops, scale: 1, between: [0.01, 0.99]}
  same: {run: part, minus: part, between: [0, 0]}
  loss: {run: full, value: training_loss, begin: 0.5, scale: 1, published: 1, bound: false, note: read off}
"""


@pytest.fixture
def paper(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / PROTOCOL).write_text(SMALL)
    return folder


@pytest.mark.parametrize("name", PAPERS)
def test_every_run_of_a_paper_is_a_configuration(name, monkeypatch, tmp_path):
    folder = papers_dir() / name
    monkeypatch.syspath_prepend(str(folder))
    paper = read_paper(folder)
    own = [f"hydra.searchpath=[{folder / 'conf'}]"] if (folder / "conf").is_dir() else []
    assert paper.why_not or paper.runs
    for work in _works(paper, folder, tmp_path, (), None, 1):
        settings = [a for a in work.arguments if a != "--config-dir" and not a.endswith("/conf")]
        check(compose_config(*own, *settings))


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_says_where_its_figures_stand(name):
    paper, folder = read_paper(papers_dir() / name), papers_dir() / name
    assert paper.title
    assert paper.link.startswith("http")
    assert paper.where
    assert (folder / "README.md").is_file()
    figures = read_result(folder).get("figures", {})
    assert figures.keys() <= paper.claims.keys()


def test_a_paper_in_small_is_run_and_judged(paper, tmp_path, capsys):
    out = tmp_path / "runs"
    reproduce(str(paper), ["trainer.threads=1"], out=out, record=True)
    said = capsys.readouterr().out
    assert "A paper [in small]" in said
    assert "2 reproduced" not in said  # a summary over papers is the list's
    figures = read_result(paper)["figures"]
    assert {key: figure["seeds"] for key, figure in figures.items()} == dict.fromkeys(
        ("full", "forgotten", "cheaper", "same", "loss"), 2
    )
    assert figures["same"]["mean"] == 0
    assert 0 < figures["cheaper"]["mean"] < 1
    assert "(read off)" in said
    (paper / PROTOCOL).write_text(SMALL)
    reproduce(str(paper), ["trainer.threads=1"], out=tmp_path / "part", only=["full"], record=True, seeds=1)
    figures = read_result(paper)["figures"]
    assert {key: figure["seeds"] for key, figure in figures.items()} == {
        "full": 1, "forgotten": 1, "cheaper": 2, "same": 2, "loss": 1,
    }  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in out.rglob("seed_*/result.json")}
    assert len(before) == 4
    reproduce(str(paper), ["trainer.threads=1"], out=out)  # nothing is run again
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("seed_*/result.json")}
    with pytest.raises(UsageError, match="begun with other settings"):  # a folder holds runs of one protocol
        reproduce(str(paper), ["trainer.max_steps=4"], out=out)


def test_what_cannot_be_done_is_said(paper, tmp_path, capsys):
    with pytest.raises(UsageError, match=r"klason2023.*klasson2023_fashion_mnist"):
        reproduce("klason2023_fashion_mnist")
    with pytest.raises(UsageError, match="half"):
        reproduce(str(paper), only=["half"], out=tmp_path)
    with pytest.raises(UsageError, match="--seeds"):
        reproduce(str(paper), seeds=0, out=tmp_path)
    with pytest.raises(UsageError, match="changes it"):
        reproduce(str(paper), ["optimizer.lr=1"], record=True, out=tmp_path)
    (paper / PROTOCOL).write_text(SMALL.replace("strategy=finetune", "strategy=finetun"))
    with pytest.raises(UsageError, match="1 of 2 runs"):
        reproduce(str(paper), ["trainer.threads=1"], out=tmp_path / "runs", seeds=1)
    assert "finetune" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("run: part, over: full", "run: part, over: ful", "Did you mean 'full'"),
        ("value: flops", "value: flop", "flops"),
        ("least: 60", "lest: 60", "lest"),
        ("seeds: 2", "seeds: two", "two"),
        ("between: [0, 0]", "between: [0]", "lowest and the highest"),
        ("between: [0, 0]", "between: [1, 0]", "lowest and the highest"),
    ],
)
def test_a_protocol_that_does_not_hold_together_is_refused(paper, old, new, said):
    (paper / PROTOCOL).write_text(SMALL.replace(old, new))
    with pytest.raises(UsageError, match=said):
        read_paper(paper)


@pytest.mark.parametrize(
    "content", ["", "runs:", "runs: {}", "[1, 2]", "claims: {a: 3}", "\ttitle: x", "runs: {a: []}\nseeds: 0"]
)
def test_what_is_no_protocol_is_one_message(paper, content):
    (paper / PROTOCOL).write_text(content)
    with pytest.raises(UsageError, match=PROTOCOL):
        read_paper(paper)


def test_bounds_are_published_deviations_and_at_least_the_least(paper):
    protocol = read_paper(paper)
    protocol.least = 0.5
    assert bounds(protocol, protocol.claims["full"]) == (68, 72)
    protocol.claims["full"].spread = 0.1
    assert bounds(protocol, protocol.claims["full"]) == (69.5, 70.5)
    assert bounds(protocol, protocol.claims["cheaper"]) == (0.01, 0.99)
    assert bounds(protocol, protocol.claims["loss"]) is None
    assert Outcome.of([1.0]) == Outcome(1.0, None, 1)


def test_what_a_run_does_not_measure_or_pay_has_no_figure():
    run = {"metrics": {"stability_gap": None}, "ledger": [{"phase": "train", "usd": 0.0}]}
    assert measured(Claim(run="a", value="stability_gap"), {"a": {0: run}}) == []
    assert measured(Claim(run="a", over="b", value="usd"), {"a": {0: run}, "b": {0: run}}) == []
    assert measured(Claim(run="a", value="usd"), {"a": {0: run}}) == [0.0]


@pytest.mark.parametrize(
    "content",
    ['{"figures": {}, "bill": {}}', "", "[]", "{}", '{"figures": {"full": [1]}}', '{"figures": {"full": {"mean": 1}}}'],
)
def test_a_damaged_result_is_none(paper, content, capsys):
    (paper / RESULT).write_text(content)
    assert read_result(paper) == {}


def test_the_list_shows_every_paper(capsys):
    show_papers()
    said = capsys.readouterr().out
    assert all(name in said for name in PAPERS)
    assert "reproduced" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_reproduction_goes_on(number, paper, tmp_path):
    """A signal to it ends the runs with it; the same command finishes, with what an uninterrupted one gives."""
    slow = SMALL.replace("trainer.max_steps=3", "trainer.max_steps=200, trainer.epochs=200, trainer.threads=1")
    (paper / PROTOCOL).write_text(slow)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    reproduce(str(paper), out=whole, only=["full"])
    command = [sys.executable, "-m", "frostline", "reproduce", str(paper), "--to", str(parts), "--only", "full"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    end = time.monotonic() + 120
    while not list(parts.rglob("checkpoint*")) and time.monotonic() < end and child.poll() is None:
        time.sleep(0.05)
    (os.killpg if number == signal.SIGINT else os.kill)(child.pid, number)  # a terminal tells the whole group
    said, _ = child.communicate(timeout=120)
    assert child.returncode == 128 + number, said
    assert b"the same command goes on" in said
    for process in psutil.process_iter(["cmdline"]):
        assert str(parts) not in " ".join(process.info["cmdline"] or ())
    reproduce(str(paper), out=parts, only=["full"])
    one, other = (json.loads((folder / RESULT).read_text())["figures"] for folder in (whole, parts))
    assert one == other
