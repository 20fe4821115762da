"""Streams: labels, masks, subsets, orders; and that both kinds of source give the same batches."""

import numpy as np
import pytest
import torch

from frostline.core.checks import UsageError
from frostline.streams import from_arrays, image_folder


def everything_in(source):
    return next(iter(source.batches(len(source))))


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_split_gives_every_sample_once(scenario):
    stream = from_arrays("digits", scenario=scenario)
    ids = torch.cat([everything_in(t.train).index % (1 << 40) for t in stream.tasks])
    assert sorted(ids.tolist()) == list(range(1347))
    labels = [sorted(set(everything_in(t.test).y.tolist())) for t in stream.tasks]
    expected = [[0, 1]] * 5 if scenario == "domain" else [[2 * t, 2 * t + 1] for t in range(5)]
    assert labels == expected
    assert stream.classes == (2 if scenario == "domain" else 10)


def test_visible_classes():
    by_class, by_task = from_arrays("digits", scenario="class"), from_arrays("digits", scenario="task")
    batch = next(iter(by_class[1].train.batches(4)))
    assert by_class[1].mask(batch).tolist() == [True] * 4 + [False] * 6  # the same for every sample: one row
    assert by_task[1].mask(batch)[0].tolist() == [False] * 2 + [True] * 2 + [False] * 6
    # a test sample is decided among what had been seen; one of a later task, among what its own turn makes visible
    assert by_class.visible_at(3, 0).sum() == 8
    assert by_class.visible_at(0, 3).sum() == 8
    assert by_task.visible_at(4, 0).tolist() == [True] * 2 + [False] * 8
    assert from_arrays("digits", scenario="domain").visible_at(0, 0) is None


def test_class_order_by_seed_or_given():
    a, b, c = (from_arrays("digits", class_order="random", seed=s) for s in (0, 0, 1))
    assert [t.classes for t in a.tasks] == [t.classes for t in b.tasks] != [t.classes for t in c.tasks]
    given = from_arrays("digits", class_order=[9, 8, 7, 6, 5, 4, 3, 2, 1, 0], scenario="domain")
    first = everything_in(given[0].test)
    natural = from_arrays("digits")[4]
    assert len(given[0].test) == len(natural.test)
    assert set(first.y.tolist()) == {0, 1}


def test_subsets_and_validation():
    stream = from_arrays("digits", samples_per_class=30, validation=0.2)
    assert [len(t.train) for t in stream.tasks] == [48] * 5
    assert [len(t.validation) for t in stream.tasks] == [12] * 5
    for task in stream.tasks:
        assert not set(everything_in(task.train).index.tolist()) & set(everything_in(task.validation).index.tolist())
        counts = torch.cat([everything_in(task.train).y, everything_in(task.validation).y]).bincount()
        assert counts[counts > 0].tolist() == [30, 30]
    assert [len(t.train) for t in from_arrays("digits", samples_per_task=17).tasks] == [17] * 5


def test_a_few_samples_a_task_are_of_every_class():
    for seed in range(5):
        for task in from_arrays("digits", tasks=2, samples_per_task=6, seed=seed).tasks:
            assert len(task.train) == 6
            assert set(everything_in(task.train).y.tolist()) == set(task.classes)
    with pytest.raises(UsageError, match=r"stream\.samples_per_task=4: a task has 5 classes"):
        from_arrays("digits", tasks=2, samples_per_task=4)


def test_angles_are_even_or_drawn_from_ranges_or_from_all():
    def angles(kind, seed=0):
        tasks = from_arrays(
            "digits", kind="rotated", tasks=12, scenario="domain", max_angle=180, angles=kind, seed=seed
        )
        return [task.train.transform.key if task.train.transform else 0.0 for task in tasks]

    assert angles("even") == pytest.approx([15.0 * t for t in range(12)])
    within, drawn = angles("within"), angles("random")
    assert all(15 * t <= angle < 15 * (t + 1) for t, angle in enumerate(within))
    assert drawn != sorted(drawn)
    assert all(0 <= angle < 180 for angle in drawn)
    assert drawn == angles("random") != angles("random", seed=1)


def test_the_nearest_pixel_makes_no_new_grey():
    for mode, new in (("nearest", False), ("bilinear", True)):
        stream = from_arrays(
            "digits", kind="rotated", tasks=3, scenario="domain", max_angle=90, interpolation=mode, scaling="unit"
        )
        plain, turned = (everything_in(stream[t].test).x.unique() for t in (0, 1))
        assert bool(set(turned.tolist()) - set(plain.tolist())) == new


def test_permuted_and_rotated():
    permuted = from_arrays("digits", kind="permuted", tasks=3, scenario="domain")
    plain, second = everything_in(permuted[0].test), everything_in(permuted[1].test)
    by_id = {int(i) % (1 << 40): x for i, x in zip(plain.index, plain.x, strict=True)}
    for i, x in zip(second.index.tolist()[:20], second.x, strict=False):
        assert torch.equal(x.flatten().sort().values, by_id[i % (1 << 40)].flatten().sort().values)
        assert not torch.equal(x, by_id[i % (1 << 40)])
    rotated = from_arrays("digits", kind="rotated", tasks=2, scenario="domain", max_angle=180)  # second task by 90
    plain, turned = everything_in(rotated[0].test), everything_in(rotated[1].test)
    by_id = {int(i) % (1 << 40): x for i, x in zip(plain.index, plain.x, strict=True)}
    for i, x in zip(turned.index.tolist()[:20], turned.x, strict=False):
        quarter = by_id[i % (1 << 40)]
        matches = [torch.allclose(x, torch.rot90(quarter, k, (1, 2)), atol=1e-4) for k in (1, 3)]
        assert any(matches)


def test_permuted_class_incremental_has_new_classes_each_time():
    stream = from_arrays("digits", kind="permuted", tasks=3, scenario="class")
    assert stream.classes == 30
    assert set(everything_in(stream[2].test).y.tolist()) == set(range(20, 30))


BAD = [
    ({"tasks": 3}, "nearest number of tasks that divides them is 2"),
    ({"tasks": 0}, "nearest valid value is 1"),
    ({"scenario": "tsk"}, "Did you mean 'task'"),
    ({"kind": "splt"}, "Did you mean 'split'"),
    ({"dataset": "digit"}, "Did you mean 'digits'"),
    ({"class_order": "randm"}, "Did you mean 'random'"),
    ({"class_order": [0, 0, 1]}, "different classes"),
    ({"classes_per_task": 3}, "nearest valid value is 2"),
    ({"kind": "rotated", "classes_per_task": 2}, "all classes"),
    ({"validation": 1.5}, "nearest valid value is 0.9"),
    ({"validation": float("nan")}, "finite"),
    ({"samples_per_class": 0}, "nearest valid value is 1"),
    ({"max_angle": 400}, "nearest valid value is 360"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_settings(bad, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(**{"dataset": "digits", **bad})


def test_classes_per_task_may_leave_classes_out():
    stream = from_arrays("digits", tasks=2, classes_per_task=3, class_order=[7, 1, 5, 0, 2, 9])
    assert [t.classes for t in stream.tasks] == [(1, 5, 7), (0, 2, 9)]


def test_image_folder(tmp_path):
    from PIL import Image

    for part, n in (("train", 6), ("test", 3)):
        for c, colour in enumerate(["red", "green", "blue", "white"]):
            folder = tmp_path / part / colour
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (10 + c, 9), colour).save(folder / f"{i}.png")
    stream = image_folder(str(tmp_path), tasks=2, image_size=8, workers=0)
    assert [len(t.train) for t in stream.tasks] == [12, 12]
    batch = everything_in(stream[1].train)
    assert batch.x.shape == (12, 3, 8, 8)
    assert set(batch.y.tolist()) == {2, 3}
    with pytest.raises(ValueError, match="train/CLASS"):
        image_folder(str(tmp_path / "nowhere"), tasks=2)
    (tmp_path / "test" / "extra").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "test" / "extra" / "a.png")
    with pytest.raises(ValueError, match="differ"):
        image_folder(str(tmp_path), tasks=2)


def test_a_validation_share_leaves_every_class_some(tmp_path):
    stream = from_arrays("digits", tasks=1, samples_per_class=2, validation=0.5)
    assert stream[0].train.labels.unique(return_counts=True)[1].tolist() == [1] * 10
    assert stream[0].validation.labels.unique(return_counts=True)[1].tolist() == [1] * 10
    lonely = from_arrays("digits", tasks=1, samples_per_class=1, validation=0.9)
    assert len(lonely[0].train) == 10
    assert lonely[0].validation is None


def test_labels_may_begin_at_one_and_leave_some_out(monkeypatch):
    from frostline.streams import datasets

    x = np.zeros((4, 2, 2), dtype=np.uint8)
    monkeypatch.setitem(
        datasets.DATASETS, "odd", lambda root, download: (x, np.array([1, 2, 7, 9]), x, np.array([9, 1, 2, 7]))
    )
    data = datasets.load("odd", scaling="unit")
    assert data.classes == 4
    assert data.y_train.tolist() == [0, 1, 2, 3]
    assert data.y_test.tolist() == [3, 0, 1, 2]
    monkeypatch.setitem(
        datasets.DATASETS, "odd", lambda root, download: (x, np.array([1, 2, 7, 9]), x, np.array([9, 1, 2, 3]))
    )
    with pytest.raises(UsageError, match="label 3, which no training sample has"):
        datasets.load("odd", scaling="unit")


def test_tasks_of_unequal_size_are_lists_of_classes(capsys):
    stream = from_arrays("digits", class_order=[[3, 1, 4], [5, 9], [2]])
    assert [task.classes for task in stream.tasks] == [(1, 3, 4), (5, 9), (2,)]
    assert "takes 6 of the 10 classes; 4 are left out" in capsys.readouterr().out
    from_arrays("digits", tasks=2)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_order": 3}, r"class_order=3: expected natural, random, a list"),
        ({"class_order": [0.0, 1.0]}, "expected natural, random, a list"),
        ({"class_order": []}, "expected natural, random, a list"),
        ({"class_order": [[0, 1], [1, 2]]}, "different classes"),
        ({"class_order": [[0, 1], []]}, "different classes"),
        ({"class_order": [[0, 1], [2, 3]], "tasks": 3}, "names 2 tasks itself"),
        ({"class_order": [[0, 1], [2, 3]], "kind": "permuted"}, "different classes"),
    ],
)
def test_orders_that_are_none(settings, message):
    with pytest.raises(UsageError, match=message):
        from_arrays("digits", **settings)
