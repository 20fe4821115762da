"""Several steps in a row are the same steps, one by one."""

import json
from itertools import chain

import pytest

from frostline.speed import together
from tests.conftest import in_process

CASES = {
    "a short last batch, two passes": ["trainer.epochs=2", "trainer.batch_size=7"],
    "all classes": ["stream.scenario=domain", "trainer.max_steps=11"],
    "evaluated within tasks": ["trainer.evaluate_every=9"],
    "another part now and then": ["selector=lisa", "selector.interval=5"],
    "momentum": ["optimizer=sgd", "optimizer.momentum=0.9"],
}


def _run(folder, *more):
    in_process(
        "stream=split_digits", "model=mlp", "model.hidden=[16]", "tracking=none", "trainer.seeds=[3,5,8]", "figures=[]",
        f"hydra.run.dir={folder}", *more,
    )  # fmt: skip
    return [json.loads((folder / f"seed_{seed}" / "result.json").read_text()) for seed in (3, 5, 8)]


@pytest.mark.parametrize("case", CASES)
def test_marching_changes_no_number(case, tmp_path, monkeypatch):
    marched = []
    march = together.Together.march
    monkeypatch.setattr(together.Together, "march", lambda *a: marched.append(a[-1]) or march(*a))
    there = _run(tmp_path / "marching", *CASES[case])
    assert max(marched) > 2
    monkeypatch.setattr(together, "MOST_STEPS", 1)
    marched.clear()
    apart = _run(tmp_path / "one by one", *CASES[case])
    assert not marched
    for one, other in zip(there, apart, strict=True):
        assert one["accuracy"] == other["accuracy"]
        for row, again in zip(chain(*one["loss"]), chain(*other["loss"]), strict=True):
            assert row == again or row == pytest.approx(again, rel=1e-4)
        assert one["training_loss"] == pytest.approx(other["training_loss"], rel=1e-5)
        keys = ("task", "phase", "steps", "samples", "flops", "trainable_parameters")
        assert [[row[k] for k in keys] for row in one["ledger"]] == [[row[k] for k in keys] for row in other["ledger"]]


@pytest.mark.parametrize(
    "more", [["strategy=ewc"], ["strategy=replay"], ["schedule=cosine"], ["trainer.clip=1.0"], ["stream.scenario=task"]]
)
def test_where_somebody_looks_at_steps_they_are_taken_one_by_one(more, tmp_path, monkeypatch):
    marched = []
    monkeypatch.setattr(together.Together, "march", lambda *a: marched.append(a))
    _run(tmp_path, "trainer.epochs=1", "stream.tasks=2", *more)
    assert not marched
