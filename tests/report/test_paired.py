"""Which is better, by how much, how surely, at what price: in a sentence that says what it rests on."""

import pytest

from frostline.core.checks import UsageError
from frostline.report.columns import COLUMNS, less_is_better
from frostline.report.groups import group_runs
from frostline.report.paired import pairs, pairs_table, sentences
from frostline.report.ranking import over_streams, ranking_figure, ranking_sentence
from tests.report.test_compare import run
from tests.report.test_page import several


def said(*runs, **options):
    return list(sentences(pairs(group_runs(list(runs)), **options)))


def series(strategy, values, first=0):
    return [run(strategy, seed=first + seed, accuracy=value) for seed, value in enumerate(values)]


BASE = [0.50, 0.52, 0.49, 0.51, 0.53, 0.50]


def test_a_difference_that_is_shown():
    (text,) = said(*series("finetune", BASE), *series("replay", [v + 0.3 + 0.01 * i for i, v in enumerate(BASE)]))
    assert text.startswith(
        "replay has higher accuracy than finetune, by 0.325 (95 % interval 0.305 to 0.345; p = 0.031, "
    )
    assert "permutation test over 6 pairs, seeds 0-5)" in text
    assert "This is shown." in text
    assert text.endswith("Operations are equal.")


def test_identical_runs_do_not_differ():
    (text,) = said(*series("finetune", BASE), *series("replay", BASE))
    assert text.startswith("No difference in accuracy between ")


def test_few_seeds_are_called_few_and_say_what_they_cannot_show():
    (text,) = said(*series("finetune", BASE[:3]), *series("replay", [0.8, 0.81, 0.83]))
    assert "few seeds" in text
    assert "This is not shown: 3 pairs cannot come below p = 0.25, six can." in text
    (text,) = said(*series("finetune", BASE[:1]), *series("replay", [0.8]))
    assert "by 0.3; of one seed (0), which says nothing about others." in text


def test_pairs_are_those_of_a_seed():
    (text,) = said(*series("finetune", BASE), *series("replay", [v + 0.1 for v in BASE], first=2))
    assert "seeds 2-5" in text
    assert "seeds 0-1, 6-7 have no counterpart" in text
    with pytest.raises(UsageError, match=r"share a seed; there are finetune \(seeds 0-5\); replay \(seeds 9-14\)"):
        said(*series("finetune", BASE), *series("replay", BASE, first=9))


def test_many_comparisons_are_corrected():
    runs = [r for i, s in enumerate(("finetune", "replay", "ewc")) for r in series(s, [v + 0.1 * i for v in BASE])]
    texts = said(*runs)
    assert len(texts) == 3
    assert all("p = 0.094" in text and "Holm over 3 comparisons" in text for text in texts)


def test_less_forgetting_is_better_and_streams_are_not_mixed():
    runs = [*series("finetune", BASE), *series("replay", BASE)]
    for r in runs:
        r["metrics"]["forgetting"] = 0.2 if "finetune" in r["config"]["strategy"] else 0.1 + 0.01 * r["seed"]
    (text,) = said(*runs, column="forgetting")
    assert text.startswith("replay has lower forgetting than finetune, by 0.075")
    other = series("ewc", BASE)
    for r in other:
        r["config"]["stream"]["tasks"] = 3
    with pytest.raises(UsageError, match="two configurations of one stream"):
        said(*series("finetune", BASE), *other)


def test_methods_are_ranked_over_streams():
    runs = []
    for tasks in (2, 3, 4, 5):
        for place, strategy in enumerate(("finetune", "replay", "ewc")):
            runs += series(strategy, [v + 0.1 * place for v in BASE[:3]])
            for r in runs[-3:]:
                r["config"]["stream"]["tasks"] = tasks
    groups = group_runs(runs)
    found = over_streams(groups)
    assert found is not None
    assert dict(zip(found.methods, found.ranks, strict=True)) == {"finetune": 3, "replay": 2, "ewc": 1}
    text = ranking_sentence(found)
    assert text.startswith("Mean ranks over 4 streams, few streams (1 is best): ewc 1.00, replay 2.00, finetune 3.00.")
    assert text.endswith("ewc is told apart from: finetune.")
    assert len(ranking_figure(found).axes) == 1
    assert over_streams([g for g in groups if g.stream == groups[0].stream]) is None
    assert len(pairs_table(pairs(groups, margin=0.01)).columns) == 8


def test_within_a_margin():
    close = [v - 0.001 * (i % 2) for i, v in enumerate(BASE)]
    cheap = series("partial", close)
    for r in cheap:
        r["ledger"][0]["flops"] = 1
    (text,) = said(*series("finetune", BASE), *cheap, margin=0.01)
    assert "The cheaper, partial, is shown to be within 0.01 of finetune" in text
    (text,) = said(*series("finetune", BASE), *cheap, margin=0.0001)
    assert "The cheaper, partial, is not shown to be within 0.0001 of finetune" in text


@pytest.mark.parametrize("column", [c for c in COLUMNS if less_is_better(c)])
def test_less_is_better_of_every_such_column(column):
    """A loss, a gap and a price are better where they are smaller: said once, in report/columns.py."""
    runs = [*several()[:6], *several()[18:]]  # replay, finetune
    for made in runs:
        replay = "replay" in made["config"]["strategy"]
        value = (1.0 if replay else 2.0) + made["seed"] / 100
        made["metrics"] |= {column: value, "average_accuracy": 0.5}
        made["loss"] = [[value] * 3]
        made["full_finetuning"] = {"flops_ratio": value, "seconds_ratio": value}
        for row in made["ledger"]:
            row |= {column: value}
    (found,) = pairs(group_runs(runs), column=column)
    assert (found.a.method, found.b.method) == ("replay", "finetune")
    assert f"replay has lower {column.replace('_', ' ')} than finetune" in next(sentences([found]))
