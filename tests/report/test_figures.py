"""A run's figures say what they show at any size of run."""

import pytest

from frostline.report.figures import accuracy_against_cost


@pytest.mark.parametrize("flops", [1_000, 10**13])
def test_costs_have_units_that_fit_them(flops):
    rows = [{"task": t, "phase": "train", "flops": flops, "seconds": 0.01} for t in range(3)]
    content = {
        "accuracy": [[0.5, 0.5, 0.5], [0.9, None, None], [0.8, 0.9, None], [0.7, 0.8, 0.9]],
        "ledger": rows, "stream": {"name": "s", "tasks": ["a", "b", "c"]}, "config": {"strategy": {"icarl": None}},
        "full_finetuning": {"flops": 2 * flops, "seconds": 0.02},
    }  # fmt: skip
    figure = accuracy_against_cost(content)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_xlabel() == "FLOPs spent on learning"
    assert axes.xaxis.get_offset_text().get_text() == ""
    assert any(label.get_text().endswith({1_000: " k", 10**13: " T"}[flops]) for label in axes.get_xticklabels())
