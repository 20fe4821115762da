"""A run's figures say what they show at any size of run."""

import pytest

from frostline.report.figures import accuracy_against_cost


def content_of(accuracy, flops=1_000):
    rows = [{"task": t, "phase": "train", "flops": flops, "seconds": 0.01} for t in range(3)]
    return {
        "accuracy": accuracy, "ledger": rows, "stream": {"name": "s", "tasks": ["a", "b", "c"]},
        "config": {"strategy": {"icarl": None}}, "full_finetuning": {"flops": 2 * flops, "seconds": 0.02},
    }  # fmt: skip


@pytest.mark.parametrize("value", [0.01, 0.5, 0.99])
def test_the_legend_is_in_no_points_way(value):
    figure = accuracy_against_cost(content_of([[value] * 3] * 4))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    for axes in figure.axes:
        assert not box.overlaps(axes.get_window_extent())
        assert not any(box.overlaps(text.get_window_extent()) for text in axes.texts)


@pytest.mark.parametrize("flops", [1_000, 10**13])
def test_costs_have_units_that_fit_them(flops):
    content = content_of([[0.5, 0.5, 0.5], [0.9, None, None], [0.8, 0.9, None], [0.7, 0.8, 0.9]], flops)
    figure = accuracy_against_cost(content)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_xlabel() == "FLOPs spent on learning"
    assert axes.xaxis.get_offset_text().get_text() == ""
    assert any(label.get_text().endswith({1_000: " k", 10**13: " T"}[flops]) for label in axes.get_xticklabels())
