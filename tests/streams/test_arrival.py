"""How samples come: counted from the streams themselves and held against the definitions."""

import numpy as np
import pytest
import torch

from frostline.core.checks import UsageError
from frostline.loop.training import run_stream
from frostline.strategies import Replay
from frostline.streams import from_arrays
from frostline.streams.arrival import HOW, Arrival

PER_CLASS = 100


def stream(arrival, tasks=5, seed=0, **more):
    return from_arrays("digits", tasks=tasks, seed=seed, samples_per_class=PER_CLASS, arrival=arrival, **more)


def counts(found):
    """Samples of each class in each task, [T, C]."""
    return np.array([np.bincount(task.train.labels.numpy(), minlength=10) for task in found.tasks])


def rows(found):
    return torch.cat([task.train.rows for task in found.tasks])


@pytest.mark.parametrize("how", HOW)
def test_every_sample_comes_once_and_every_test_class_is_somebodys(how):
    found = stream(Arrival(how))
    assert len(rows(found).unique()) == len(rows(found)) == 1000
    assert (counts(found).sum(0) == PER_CLASS).all()
    for task in found.tasks:
        assert task.classes == tuple(np.flatnonzero(counts(found)[task.index]))
    tested = [sorted(set(task.test.labels.tolist())) for task in found.tasks]
    assert tested == ([list(range(10))] * 5 if how == "chunks" else tested)
    if how != "chunks":
        assert sorted(c for group in tested for c in group) == list(range(10))
    again, other = stream(Arrival(how)), stream(Arrival(how), seed=1)
    assert all(torch.equal(a.train.rows, b.train.rows) for a, b in zip(found.tasks, again.tasks, strict=True))
    assert not torch.equal(rows(found), rows(other))


def test_task_by_task_is_what_it_always_was():
    plain, named = (
        from_arrays("digits", samples_per_class=20),
        from_arrays("digits", samples_per_class=20, arrival=Arrival()),
    )
    for a, b in zip(plain.tasks, named.tasks, strict=True):
        assert torch.equal(a.train.rows, b.train.rows)
        assert torch.equal(a.train.labels, b.train.labels)


def test_chunks_hold_every_class_equally_in_any_number_of_tasks():
    found = counts(stream(Arrival("chunks"), tasks=7))
    assert found.shape == (7, 10)
    assert found.min() >= PER_CLASS // 7
    assert found.max() <= PER_CLASS // 7 + 1


@pytest.mark.parametrize(("disjoint", "blur"), [(0.5, 0.1), (0.0, 0.3), (1.0, 0.5)])
def test_i_blurry_equals_its_definition(disjoint, blur):
    found = counts(stream(Arrival("blurry", disjoint=disjoint, blur=blur)))
    majors = [[2 * t, 2 * t + 1] for t in range(5)]
    blurred = 0
    for t, group in enumerate(majors):
        for c in group:
            minor = np.delete(found[:, c], t)
            if minor.any():
                blurred += 1
                assert found[t, c] == round((1 - blur) * PER_CLASS)
                assert minor.max() - minor.min() <= 1  # dealt evenly
    assert blurred == round((1 - disjoint) * 10)


def test_si_blurry_draws_the_number_of_classes_and_deals_by_lot():
    sizes, minors = [], np.zeros(5)
    for seed in range(30):
        made = stream(Arrival("si_blurry", blur=0.2), seed=seed)
        found = counts(made)
        own = [set(task.test.labels.tolist()) for task in made.tasks]
        sizes += [len(group) for group in own]
        disjoint = 0
        for c in range(10):
            major = next(t for t, group in enumerate(own) if c in group)
            away = found[:, c].copy()
            away[major] = 0
            disjoint += not away.any()
            minors += away
            assert found[major, c] >= 80  # and by lot some of the 20 come home
        assert disjoint == 5
    assert min(sizes) == 1
    assert max(sizes) > 3
    spread = minors / minors.sum()
    assert 0.17 < spread.min() < spread.max() < 0.23  # every task alike: no task is more often left than another


def test_repetition_begins_where_a_class_is_new_and_comes_again_by_chance():
    again = []
    for seed in range(40):
        found = counts(stream(Arrival("repeated", repetition=0.3), seed=seed))
        for c in range(10):
            first = c // 2
            assert not found[:first, c].any()
            assert found[first, c] > 0
            again += (found[first + 1 :, c] > 0).tolist()
            here = found[found[:, c] > 0, c]
            assert here.max() - here.min() <= 1
    assert 0.26 < np.mean(again) < 0.34
    assert (counts(stream(Arrival("repeated", repetition=0.0))) > 0).sum() == 10


@pytest.mark.parametrize("tail", ["random", "ordered"])
def test_a_long_tail_falls_exponentially_and_only_in_training(tail):
    plain, found = from_arrays("digits"), from_arrays("digits", arrival=Arrival(imbalance=20, tail=tail))
    natural, sizes = counts(plain).sum(0), counts(found).sum(0)
    curve = np.round(natural.max() * 20 ** (-np.arange(10) / 9.0))
    if tail == "ordered":
        assert (sizes == np.minimum(curve, natural)).all()
    else:
        assert (sizes != np.minimum(curve, natural)).any()
        assert np.abs(np.sort(sizes)[::-1] - curve).max() <= natural.max() - natural.min()
    assert sizes.min() == round(natural.max() / 20)
    assert [len(t.test) for t in found.tasks] == [len(t.test) for t in plain.tasks]


def test_wrong_labels_are_a_share_of_the_training_data_and_other_classes_of_the_task():
    plain = from_arrays("digits", validation=0.1, samples_per_class=PER_CLASS)
    found = from_arrays("digits", validation=0.1, samples_per_class=PER_CLASS, arrival=Arrival(label_noise=0.25))
    for a, b in zip(plain.tasks, found.tasks, strict=True):
        assert torch.equal(a.train.rows, b.train.rows)
        assert int((a.train.labels != b.train.labels).sum()) == round(0.25 * len(a.train))
        assert set(b.train.labels.tolist()) == set(b.classes)
        assert torch.equal(a.test.labels, b.test.labels)
        assert torch.equal(a.validation.labels, b.validation.labels)


@pytest.mark.parametrize("how", ["chunks", "repeated", "blurry", "si_blurry"])
def test_it_is_learned(how, make_run):
    run = make_run(Replay(capacity=100), stream=stream(Arrival(how)), epochs=5)
    run_stream(run)
    assert np.mean(run.progress.accuracy[-1]) > 0.6


@pytest.mark.parametrize(
    ("arrival", "more", "said"),
    [
        (Arrival("blurry"), {"scenario": "task"}, "Expected stream.scenario=class"),
        (Arrival("chunks"), {"kind": "permuted", "scenario": "class"}, "a split stream"),
        (Arrival("si_blurry"), {"tasks": 11}, "stream.tasks"),
        (Arrival("chunks"), {"classes_per_task": 2}, "deals the classes itself"),
    ],
)
def test_what_does_not_go_together_is_refused(arrival, more, said):
    with pytest.raises(UsageError, match=said):
        from_arrays("digits", arrival=arrival, **more)


@pytest.mark.parametrize(
    "wrong", [{"how": "blury"}, {"blur": 1.5}, {"imbalance": 0.5}, {"label_noise": -1}, {"tail": "x"}]
)
def test_wrong_values_are_named(wrong):
    (name,) = wrong
    with pytest.raises(UsageError, match=rf"stream.arrival.{name}"):
        Arrival(**wrong)


def test_what_needs_the_tasks_label_is_refused_by_name(cli, tmp_path):
    done = cli(tmp_path, "strategy=packnet", "stream=split_digits", "stream.arrival.how=si_blurry", "tracking=none")
    assert done.returncode == 1
    assert "strategy=packnet decides each task" in done.stderr
    done = cli(tmp_path, "stream=split_digits", "stream.arrival.how=si_blury", "tracking=none")
    assert done.returncode == 1
    assert "Did you mean 'si_blurry'" in done.stderr
    done = cli(tmp_path, "stream=split_digits", "stream.arrival.blurr=1", "tracking=none")
    assert done.returncode == 1
    assert "blurr" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_word_alone_says_how():
    word, named = (from_arrays("digits", arrival=given) for given in ("blurry", Arrival("blurry")))
    assert all(torch.equal(a.train.rows, b.train.rows) for a, b in zip(word.tasks, named.tasks, strict=True))
    with pytest.raises(UsageError, match="Did you mean 'blurry'"):
        from_arrays("digits", arrival="blury")
    with pytest.raises(UsageError, match=r"stream\.arrival=3: expected settings"):
        from_arrays("digits", arrival=3)
