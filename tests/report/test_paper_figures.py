"""The figures for a paper show what the runs' own metrics say."""

import numpy as np
import pytest

from frostline.core import metrics
from frostline.report.groups import group_runs
from frostline.report.paper_figures import bill, cost_curves, forgotten, front, frontier, paper_figures
from tests.report.test_page import content, several


@pytest.fixture
def groups():
    return group_runs([*several(), content("joint", 0, 0.9, flops=1.0)])


def test_what_nothing_beats(groups):
    assert [g.method for g in front(groups, "flops", "accuracy")] == ["partial LastK k=1", "replay"]
    assert [g.method for g in front(groups, "flops", "forgetting")] == ["partial LastK k=1"]
    line = frontier(groups).axes[0].lines
    assert any(list(each.get_ydata()) == pytest.approx([0.7975, 0.8025]) for each in line)


def test_a_line_a_selector(groups):
    figure = cost_curves(groups)
    lines = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines}
    assert lines["partial LastK"] == pytest.approx([0.4, 0.6])
    assert lines["replay Everything"] == pytest.approx([1.5])


def test_bars_add_up_to_the_ledger(groups):
    figure = bill(groups)
    widths = {c.get_label(): [bar.get_width() for bar in c] for c in figure.axes[0].containers}
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert widths["train"][names.index("replay")] == pytest.approx(90)
    assert widths["evaluate"][names.index("replay")] == pytest.approx(90)


def test_the_tasks_forgetting_has_the_metrics_mean():
    rng = np.random.default_rng(0)
    runs = [content("replay", seed, tasks=5) for seed in range(2)]
    for run in runs:
        run["accuracy"] = rng.random((6, 5)).tolist()
    figure = forgotten(group_runs(runs))
    drawn = figure.axes[0].lines[0].get_ydata()
    assert np.mean(drawn) == pytest.approx(np.mean([metrics.forgetting(metrics.matrix(r["accuracy"])) for r in runs]))


def test_streams_have_figures_of_their_own(groups):
    assert [name for name, _ in paper_figures(groups)] == ["frontier", "cost_curves", "bill", "forgotten"]
    more = group_runs([*several(), *(content("ewc", seed, tasks=5, stream="split_mnist") for seed in range(2))])
    assert "bill_2" in [name for name, _ in paper_figures(more)]
