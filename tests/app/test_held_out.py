"""Suites that are evaluated after every task and never learned from."""

import json

import pytest

from frostline.app.config import check, compose_config, expand
from frostline.app.job import execute
from frostline.core.checks import UsageError

QUIET = ["tracking=none", "figures=[]", "cost.reference_steps=0", "trainer.epochs=1", "model=mlp", "model.hidden=[32]"]


def run(folder, *overrides):
    cfg = compose_config(*QUIET, *overrides)
    expand(cfg)
    execute(cfg, folder)
    return json.loads((folder / "result.json").read_text())


def test_a_suite_is_a_column_of_its_own(tmp_path):
    content = run(
        tmp_path / "run",
        "stream=permuted_digits",
        "stream.tasks=3",
        "held_out=[rotated_digits,{stream:split_digits,tasks:2}]",
    )
    assert set(content["held_out"]) == {"rotated_digits", "split_digits"}
    for suite in content["held_out"].values():
        assert len(suite["accuracy"]) == len(suite["loss"]) == 4
        assert all(0 <= value <= 1 for value in suite["accuracy"])
    change = [s["accuracy"][-1] - s["accuracy"][0] for s in content["held_out"].values()]
    assert content["metrics"]["held_out_change"] == pytest.approx(sum(change) / 2)
    rise = [s["loss"][-1] - s["loss"][0] for s in content["held_out"].values()]
    assert content["metrics"]["held_out_loss_rise"] == pytest.approx(sum(rise) / 2)
    assert [entry["name"] for entry in content["config"]["held_out"]] == ["rotated_digits", "split_digits"]


def test_it_changes_nothing_else(tmp_path):
    plain = run(tmp_path / "plain", "stream=permuted_digits", "stream.tasks=2")
    held = run(tmp_path / "held", "stream=permuted_digits", "stream.tasks=2", "held_out=[rotated_digits]")
    assert plain["accuracy"] == held["accuracy"]
    assert plain["loss"] == held["loss"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[rotated_digit]", "Did you mean 'rotated_digits'"),
        ("[rotated_digits,rotated_digits]", "expected different streams"),
        ("[split_fashion_mnist_mini]", r"Expected data like those of permuted_digits: shape \[1, 8, 8\]"),
        ("[{stream:rotated_digits,tsks:2}]", "Did you mean 'tasks'"),
        ("[3]", "expected the name of a stream"),
    ],
)
def test_what_cannot_be_is_refused(given, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "run", "stream=permuted_digits", "stream.tasks=2", f"held_out={given}")


def test_unexpanded_names_are_a_mistake():
    with pytest.raises(UsageError, match="expected the names of streams"):
        check(compose_config("held_out=[rotated_digits]"))
