"""Looks at what is said on held-out data: when, of what, and that they change nothing."""

import copy
import csv
import random
from dataclasses import replace

import pytest
import torch

from frostline.core.types import Suite
from frostline.loop.training import run_stream
from frostline.models import decoder
from frostline.records.results import read
from frostline.streams.own import from_tasks
from tests.conftest import in_process, with_states
from tests.speed.test_together import both


@pytest.fixture
def watched(digits):
    suites = tuple(Suite(name, digits.tasks[t].test) for t, name in ((0, "a"), (3, "b")))
    return replace(digits, suites=suites)


def texts():
    """Two tasks of words in an order of their own, and a held-out one."""

    def windows(step, count):
        x = (torch.arange(17) * step + torch.arange(count)[:, None] * 3) % 23
        return x[:, :-1], x[:, 1:]

    stream = from_tasks([(windows(step, 40), windows(step, 12)) for step in (2, 5)], scenario="domain", classes=23)
    held = from_tasks([(windows(3, 8), windows(3, 20))], scenario="domain", classes=23)
    tasks = tuple(replace(task, classes=()) for task in stream.tasks)
    return replace(stream, tasks=tasks, suites=(Suite("held", held.tasks[0].test),), groups=lambda: {"low": (0, 1, 2)})


def small(shape, classes):
    return decoder(shape, classes, 16, 2, 2, 1, 24)


def test_rows_at_each_moment_and_nothing_else_changes(make_run, watched):
    plain, looked = (make_run(stream=watched, evaluate_every=3, output_drift=n) for n in (None, 10))
    for run in (plain, looked):
        run_stream(run)
    assert plain.progress.accuracy == looked.progress.accuracy
    assert not plain.progress.output_drift
    rows = looked.progress.output_drift
    ends = [(t, 8 * (t + 1)) for t in range(5)]
    moments = sorted([*[(t, 8 * t + s) for t in range(5) for s in (3, 6)], *ends])
    assert [(r["task"], r["steps"]) for r in rows[::2]] == [(None, 0), *moments]
    assert [r["suite"] for r in rows[:4]] == ["a", "b", "a", "b"]
    assert [r["kl"] for r in rows[:2]] == [0, 0]
    assert all(r["kl"] > 0 for r in rows[2:])
    assert set(rows[0]["mass"]) == {task.name for task in watched.tasks}
    bills = [sum(r.flops for r in run.meter.rows if r.phase == "evaluate") for run in (plain, looked)]
    assert bills[1] > bills[0]


def test_resumed_and_seeds_at_once_have_the_same_rows(make_run, watched):
    def make(seed=0, save=None):
        return make_run(stream=watched, output_drift=10, evaluate_every=3, seed=seed, save=save)

    whole, states = with_states(make)
    second = make()
    second.load_state_dict(copy.deepcopy(next(s for s in states if s["progress"]["task"] == 2)))
    run_stream(second)
    assert second.progress.output_drift == whole.progress.output_drift
    apart, together = both(make, seeds=(0, 1))
    for one, other in zip(apart, together, strict=True):
        kls = [[r["kl"] for r in run.progress.output_drift] for run in (one, other)]
        assert kls[0] == pytest.approx(kls[1], rel=1e-3, abs=1e-5)


def test_texts_have_blocks_and_their_tasks_words(make_run):
    run = make_run(stream=texts(), model=small, output_drift=10, epochs=8, batch_size=8)
    run_stream(run)
    first, *_, last = run.progress.output_drift
    assert set(first["mass"]) >= {"low"}
    assert len(last["attention"]) == len(last["mlp"]) == 2
    assert all(value > 0 for value in (*last["attention"], *last["mlp"]))
    assert first["attention"] == [0, 0]


def test_a_run_leaves_a_table_a_figure_and_a_metric(tmp_path):
    texts, rng = tmp_path / "texts", random.Random(0)
    texts.mkdir()
    for name, word in (("one", "alpha beta 17"), ("two", "gamma delta 99"), ("old", "plain words 3")):
        lines = [f"{word} {i} {' '.join(rng.choices(word.split(), k=5 + i % 7))}" for i in range(4000)]
        (texts / f"{name}.txt").write_text("\n".join(lines))
    arguments = [
        "stream=language", f"stream.path={texts}", "stream.tasks=[one,two]", "stream.held_out=[old]", "stream.length=32",

        "stream.tokens_per_task=4000", "stream.test_tokens=1000",
        "model=decoder", "model.width=16", "model.heads=2", "model.hidden=16",
        "model.depth=2", "trainer.epochs=1", "trainer.output_drift=8", f"hydra.run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    code, error = in_process(*arguments)
    assert code == 0, error
    content = read(tmp_path / "run")
    rows = content["output_drift"]
    assert content["metrics"]["output_drift"] == rows[-1]["kl"] > 0
    table = list(csv.DictReader((tmp_path / "run" / "output_drift.csv").read_text().splitlines()))
    assert [float(row["kl"]) for row in table] == [row["kl"] for row in rows]
    assert {"mass of numbers", "attention 1", "mlp 2"} <= set(table[0])
    assert (tmp_path / "run" / "figures" / "output_drift.png").stat().st_size > 5000
    code, error = in_process(*arguments[:-1], "stream.held_out=[]", f"hydra.run.dir={tmp_path / 'no'}")
    assert code == 1
    assert "there are none. Expected beside it held_out=[STREAM]" in error
    code, error = in_process(*arguments[:-1], "+stream.token_groups.odd=zzz", f"hydra.run.dir={tmp_path / 'no'}")
    assert code == 1
    assert "none of the 257 tokens has such a text" in error
    assert not (tmp_path / "no" / "result.json").exists()
