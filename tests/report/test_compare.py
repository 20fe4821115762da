import copy

import numpy as np
import pytest
from scipy import stats

from frostline.report.compare import _remarks, accuracy_against_cost
from frostline.report.groups import Group, group_runs, selector_setting
from frostline.report.tables import _span, _sum, perplexity_tables, si, size, token_lines


def run(strategy="finetune", seed=0, accuracy=0.5, selector="Everything", *, own=None, lr=0.05, device="cpu"):
    config = {
        "seed": seed,
        "strategy": {strategy: {"_target_": f"x.{strategy}", "seed": seed, **(own or {})}},
        "selector": {"_target_": f"x.{selector}"},
        "stream": {"_target_": "x.from_arrays", "dataset": "digits"},
        "model": {"_target_": "x.mlp"},
        "optimizer": {"_target_": "x.SGD", "lr": lr},
        "trainer": {"epochs": 1, "device": device},
    }
    ledger = [
        {"task": 0, "phase": p, "flops": 10, "seconds": 1.0 + accuracy, "usd": None}
        for p in ("train", "consolidate", "evaluate")
    ]
    metrics = {"average_accuracy": accuracy, "forgetting": None, "intransigence": None}
    return {
        "config": config, "seed": seed, "metrics": metrics, "ledger": ledger, "accuracy": [[0.1], [accuracy]],
        "stream": {"name": "split_digits"}, "data": {},
    }  # fmt: skip


def labels(runs):
    return [(g.label, len(g.runs)) for g in group_runs(runs)]


def test_seeds_and_devices_are_grouped():
    assert labels([run(seed=0), run(seed=1, device="cuda")]) == [("finetune", 2)]


def test_runs_of_an_earlier_version_are_beside_those_of_this_one():
    """Settings that came since are as they come there; a run that has another value is another experiment."""
    stream = {"_target_": "frostline.streams.text_domains.language", "path": "texts", "length": 64}
    trainer = {"epochs": 1}
    new = {"validation": 0.0, "token_folder": "tokens", "token_groups": {"numbers": "[0-9]"}}
    runs = [run(seed=seed) for seed in range(4)]
    for place, more in enumerate(({}, new, {**new, "token_folder": None}, {**new, "validation": 0.2})):
        runs[place]["config"] |= {"stream": stream | more, "trainer": trainer | ({"output_drift": 64} if more else {})}
    groups = group_runs(runs)
    assert [len(g.runs) for g in groups] == [3, 1]
    assert [g.stream for g in groups] == ["split_digits validation=0.0", "split_digits validation=0.2"]


def test_a_sweep_over_selectors_names_its_reference():
    runs = [run("partial"), run("partial", selector="LastK"), run("finetune")]
    assert [name for name, _ in labels(runs)] == ["partial Everything", "partial LastK", "finetune"]


def test_a_label_names_a_data_set_once():
    def content(dataset):
        stream = {"_target_": "frostline.streams.split", "dataset": dataset, "scenario": "class"}
        config = {"strategy": {"replay": {"_target_": "frostline.strategies.Replay"}}, "stream": stream} | {
            section: {"_target_": f"frostline.{section}"} for section in ("selector", "model", "optimizer")
        }
        return {"config": config, "seed": 0, "data": None, "accuracy": [[0.5], [1.0]], "stream": {"name": dataset}}

    assert [group.label for group in group_runs([content("digits"), content("mnist")])] == [
        "replay digits",
        "replay mnist",
    ]


def test_labels_name_what_differs_among_those_that_have_it():
    runs = [run(), run("ewc", own={"strength": 1}), run("ewc", own={"strength": 2})]
    assert [name for name, _ in labels(runs)] == ["finetune", "ewc strength=1", "ewc strength=2"]
    runs = [run(), run("partial", selector="LastK"), run("ewc", lr=0.1)]
    runs[1]["config"]["selector"]["k"] = 1
    assert [name for name, _ in labels(runs)] == ["finetune lr=0.05", "partial LastK lr=0.05", "ewc lr=0.1"]
    deeper = copy.deepcopy(runs[1])
    deeper["config"]["selector"]["k"] = 2
    assert [name for name, _ in labels([runs[1], deeper])] == ["partial k=1", "partial k=2"]


def test_a_role_is_a_selector_of_its_own():
    runs = [run("partial", selector="Role", lr=lr) for _ in range(2) for lr in (0.1, 0.2)]
    for made, role in zip(runs, ("mlp", "mlp", "norms", "norms"), strict=True):
        made["config"]["selector"] |= {"role": role, "with_head": True}
    assert [name for name, _ in labels(runs)] == [
        "partial mlp lr=0.1", "partial mlp lr=0.2", "partial norms lr=0.1", "partial norms lr=0.2",
    ]  # fmt: skip
    assert selector_setting(runs[2]["config"]) == ("norms", "with_head=True")


def test_interval_equals_scipy():
    values = [0.2, 0.5, 0.9, 0.4]
    group = Group("x", [run(seed=i, accuracy=v) for i, v in enumerate(values)])
    mean, half = group.interval("accuracy")
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (mean - half, mean + half) == (pytest.approx(low), pytest.approx(high))
    assert np.isnan(Group("x", [run()]).interval("accuracy")[1])
    assert group.interval("forgetting") is None


def test_costs_are_those_of_learning():
    group = Group("x", [run(accuracy=0.5)])
    assert group.values("flops") == [20]
    assert group.values("seconds") == [3.0]


def test_intransigence_from_a_cumulative_run():
    groups = group_runs([run(accuracy=0.6), run("cumulative", accuracy=0.9)])
    assert groups[0].values("intransigence") == [pytest.approx(0.3)]


def test_figure_has_a_point_for_each_configuration():
    figure = accuracy_against_cost(group_runs([run(seed=0), run(seed=1), run(seed=2), run("ewc")]))
    assert len(figure.axes[0].containers) == 2
    assert figure.get_suptitle() == "split_digits: mean and 95 % interval over all seeds"
    figure = accuracy_against_cost(group_runs([run(seed=0), run(seed=1), run("ewc")]))
    assert figure.get_suptitle() == "split_digits: mean of two seeds, a dot each"


def test_a_dozen_selectors_have_a_dozen_marks_and_low_accuracies_the_whole_height():
    groups = group_runs([run("partial", selector=f"S{i}", accuracy=0.2 + 0.01 * i) for i in range(13)])
    axes = accuracy_against_cost(groups).axes[0]
    marks = [container.lines[0].get_marker() for container in axes.containers]  # type: ignore[attr-defined]
    assert len(set(marks)) == 13
    low, high = axes.get_ylim()
    assert 0.1 <= low <= 0.2
    assert 0.4 <= high <= 0.43


def test_colours_tell_strategies_apart_and_markers_what_else_differs():
    runs = [run("ewc", own={"strength": 1}), run("ewc", own={"strength": 2}), run("lwf")]
    points = [container.lines[0] for container in accuracy_against_cost(group_runs(runs)).axes[0].containers]
    assert points[0].get_color() == points[1].get_color() != points[2].get_color()
    assert points[0].get_marker() != points[1].get_marker()


def test_what_is_not_set_is_not_named():
    assert labels([run("ewc", own={"decay": None}), run("ewc", own={"decay": 0.5})]) == [
        ("ewc", 1),
        ("ewc decay=0.5", 1),
    ]


def test_a_bill_that_is_summed_says_from_how_few_to_how_many_parameters_trained():
    rows = [
        {"task": t, "phase": "train", "trainable_parameters": n, "flops": 1} for t, n in enumerate((422_000, 1_300, 0))
    ]
    assert _span(_sum(rows, "train")["trainable_parameters"]) == "0 to 422 k"
    assert _span(_sum(rows[:1], "train")["trainable_parameters"]) == "422 k"


def test_numbers_for_people():
    assert [si(v) for v in (None, 0, 999, 1_500, 2.5e9)] == ["", "0", "999", "1.5 k", "2.5 G"]
    assert [size(v) for v in (0, 512, 2048, 3 * 2**20)] == ["", "512 B", "2 KiB", "3 MiB"]


def test_brackets_in_names_are_printed(capsys):
    """Task and folder names are text, not markup."""
    from rich.console import Console

    from frostline.report.tables import accuracy_table

    content = {"stream": {"tasks": ["[red]a", "b"]}, "accuracy": [[0.1, 0.2], [0.9, 0.2], [0.8, 0.9]]}
    Console(width=120).print(accuracy_table(content))
    assert capsys.readouterr().out.count("[red]a") == 2


def test_a_run_done_again_is_not_another_sample():
    runs = [run(seed=0, accuracy=0.4), run(seed=0, accuracy=0.5), run(seed=1, accuracy=0.9)]
    (group,) = group_runs(runs)
    assert [(r["seed"], r["metrics"]["average_accuracy"]) for r in group.runs] == [(0, 0.5), (1, 0.9)]
    assert group.repeated == 1
    assert list(_remarks([group])) == [
        "left out: 1 of finetune whose seed another run has too (the last of a seed counts)"
    ]


def test_runs_of_one_configuration_that_learned_from_different_data_are_named():
    runs = [run(seed=seed) for seed in (0, 1, 2)]
    for each, held in zip(runs, ("a", "a", "b"), strict=True):
        each["data"] = {"train": f"{each['seed']}", "test": "t", "set": held}
    (group,) = group_runs(runs)
    assert next(_remarks([group])).startswith("the runs of finetune learned from 2 different data sets")
    assert not list(_remarks(group_runs(runs[:2])))  # seeds choose other samples of the same set


def test_the_reference_of_intransigence_differs_in_strategy_and_selector_only():
    """A cumulative run at another learning rate is no upper bound of this one."""
    runs = [run("cumulative", lr=lr, accuracy=a) for lr, a in ((0.05, 0.9), (1e-6, 0.1))]
    runs += [run("ewc", lr=lr, accuracy=a, selector="LastK") for lr, a in ((0.05, 0.7), (1e-6, 0.1), (0.1, 0.5))]
    group_runs(runs)
    found = [r["metrics"]["intransigence"] for r in runs]
    assert found == [pytest.approx(0.0), pytest.approx(0.0), pytest.approx(0.2), pytest.approx(0.0), None]


def test_the_figure_of_many_groups_names_the_strategies(monkeypatch):
    """Four hundred names would take all the room, and ten seconds."""
    groups = [Group(f"{strategy} lr={n}", [], 0, 1, strategy) for strategy in ("replay", "ewc") for n in range(15)]
    monkeypatch.setattr(Group, "interval", lambda self, column: (0.5, float("nan")))
    for group in groups:
        group.runs.append({"stream": {"name": "digits"}})
    for some, names in ((groups, ["replay", "ewc"]), (groups[:3], [g.label for g in groups[:3]])):
        assert [text.get_text() for text in accuracy_against_cost(some).legends[0].get_texts()] == names


def test_a_language_run_says_perplexities_and_positions():
    content = run() | {"loss": [[2.0], [0.0]], "held_out": {"old": {"loss": [1.0, None]}}}
    assert perplexity_tables(content) == token_lines(content) == []
    content["stream"] = {"tasks": ["0: [b]"], "targets": 8, "unit": "nats"}
    content["ledger"] = [
        {"phase": "train", "samples": 500, "seconds": 2.0},
        {"phase": "evaluate", "samples": 9, "seconds": 1.0},
    ]
    tasks, suites = perplexity_tables(content)
    assert [list(column.cells) for column in tasks.columns] == [["untrained", "0: \\[b]"], ["7.389", "[bold]1[/]"]]
    assert list(suites.columns[1].cells) == ["2.718", ""]
    assert token_lines(content) == ["Learned from 4 k token positions, 2 k a second."]
    content["bits_per_byte"] = {"tasks": [[2.885], [0.0]], "held_out": {"old": [1.443, None]}}
    tasks, suites = perplexity_tables(content)
    assert tasks.title == "Perplexity / bits a byte after each task"
    assert list(tasks.columns[1].cells) == ["7.389 / 2.885", "[bold]1 / 0.000[/]"]
    assert list(suites.columns[1].cells) == ["2.718 / 1.443", ""]
    content["held_out"] |= {"arc": {"accuracy": [0.5, 0.6], "loss": [None, None]}}  # the harness's have no loss
    assert len(perplexity_tables(content)[1].columns) == 2
