"""Image folders as people have them: hidden files, odd modes, damaged and vanishing images, workers."""

import numpy as np
import pytest
import torch
from PIL import Image

from frostline.core.checks import UsageError
from frostline.streams import image_folder
from frostline.streams.images import as_rgb


def make(root, classes=("cat", "dog"), each=6, size=8):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(each):
                Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(
                    root / part / name / f"{i}.png"
                )


def test_what_is_hidden_is_no_class_and_no_image(tmp_path):
    make(tmp_path)
    for part in ("train", "test"):
        (tmp_path / part / ".ipynb_checkpoints").mkdir()
        (tmp_path / part / "cat" / "._0.png").write_bytes(b"\0\5\26\7")
        (tmp_path / part / "cat" / ".ipynb_checkpoints").mkdir()
        (tmp_path / part / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png").write_bytes(b"no image")
    stream = image_folder(str(tmp_path), tasks=2, image_size=8, workers=0)
    assert [task.name for task in stream.tasks] == ["0: cat", "1: dog"]
    assert [len(task.train) for task in stream.tasks] == [6, 6]


def test_classes_are_in_the_order_of_their_numbers(tmp_path):
    make(tmp_path, ("10", "9", "2"), each=2)
    stream = image_folder(str(tmp_path), tasks=3, image_size=8, workers=0)
    assert [task.name for task in stream.tasks] == ["0: 2", "1: 9", "2: 10"]


def test_sixteen_bits_become_eight():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    seen = np.asarray(as_rgb(Image.fromarray(ramp)))
    assert seen.shape == (16, 16, 3)
    assert seen[..., 0].flatten().tolist() == list(range(256))
    with pytest.raises(ValueError, match="expected 8 or 16 bits"):
        as_rgb(Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)))


def test_images_stand_upright_and_what_is_transparent_is_white():
    picture = np.zeros((2, 3, 3), dtype=np.uint8)
    picture[0, 0] = 255
    turned = Image.fromarray(picture)
    turned.getexif()[0x0112] = 3  # upside down
    assert np.asarray(as_rgb(turned))[1, 2].tolist() == [255, 255, 255]
    clear = Image.fromarray(np.zeros((2, 2, 4), dtype=np.uint8))
    assert np.asarray(as_rgb(clear)).min() == 255
    palette = Image.fromarray(np.zeros((2, 2), dtype=np.uint8)).convert("P")
    palette.info["transparency"] = 0
    assert np.asarray(as_rgb(palette)).min() == 255
    for mode in ("1", "L", "LA", "CMYK", "RGB"):
        assert as_rgb(Image.new(mode, (2, 2))).mode == "RGB"


def test_what_is_no_image_is_named_before_training(tmp_path):
    make(tmp_path)
    (tmp_path / "train" / "cat" / "notes.png").write_text("no image")
    with pytest.raises(UsageError, match=r"notes\.png is no image that can be read"):
        image_folder(str(tmp_path), tasks=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanishes_is_named(workers, tmp_path):
    make(tmp_path)
    stream = image_folder(str(tmp_path), tasks=2, image_size=8, workers=workers)
    (tmp_path / "train" / "cat" / "3.png").unlink()
    with pytest.raises(UsageError, match=r"^\S+3\.png could not be read as an image: \[Errno 2\]"):
        list(stream[0].train.batches(2))


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_draws_nothing_from_the_models_random_numbers(workers, tmp_path):
    """A DataLoader draws a base seed when it starts: a resume within an epoch starts it once more."""
    make(tmp_path)
    stream = image_folder(str(tmp_path), tasks=2, image_size=8, workers=workers)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(stream[0].train.batches(2))
    assert torch.equal(before, torch.get_rng_state())


def test_empty_folders_are_named(tmp_path):
    make(tmp_path)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(UsageError, match="empty holds no images"):
        image_folder(str(tmp_path), tasks=2)
    with pytest.raises(UsageError, match="expected images under train/CLASS/"):
        image_folder(str(tmp_path / "train"), tasks=2)


def test_images_in_memory_are_those_that_a_loader_reads(tmp_path):
    make(tmp_path)
    read, held = (
        image_folder(str(tmp_path), tasks=2, image_size=8, workers=0, in_memory=flag, validation=0.2)
        for flag in (False, True)
    )
    for a, b in zip(read.tasks, held.tasks, strict=True):
        for part in ("train", "validation", "test"):
            order = torch.arange(len(getattr(a, part))).flip(0)
            (one,), (other,) = (list(getattr(task, part).batches(64, order)) for task in (a, b))
            assert all(torch.equal(one.tensors()[name], other.tensors()[name]) for name in one.tensors())


def test_only_what_the_stream_uses_is_kept_in_memory(tmp_path):
    """2,500 of CIFAR-10's 50,000 images at 96 pixels took 10 GiB and a minute and a half."""
    make(tmp_path)
    few = {"samples_per_class": 2, "test_samples_per_class": 1, "workers": 0, "seed": 3}
    read, held = (image_folder(str(tmp_path), tasks=2, image_size=8, in_memory=flag, **few) for flag in (False, True))
    for a, b in zip(read.tasks, held.tasks, strict=True):
        assert len(b.train.x) == 2 * 2
        assert len(b.test.x) == 2
        for part in ("train", "test"):
            (one,), (other,) = (list(getattr(task, part).batches(64)) for task in (a, b))
            assert torch.equal(one.x, other.x)
            assert torch.equal(one.y, other.y)
            assert [*getattr(a, part).holds().values()] == [*getattr(b, part).holds().values()]


def test_images_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with pytest.raises(UsageError, match=r"in_memory=true would take .*Expected false"):
        image_folder(str(tmp_path), tasks=2, image_size=8, in_memory=True)


def test_folders_of_classes_are_tasks_and_a_share_is_tested_on(tmp_path):
    for alphabet, characters in (("Greek", 3), ("Latin", 2), ("Cyrillic", 4)):
        make(tmp_path / "whole" / alphabet, [f"character{i}" for i in range(1, characters + 1)], each=5)
        (tmp_path / "whole" / alphabet / "test").rename(tmp_path / alphabet)
    root = tmp_path / "letters"
    root.mkdir()
    for alphabet in ("Greek", "Latin", "Cyrillic"):
        (tmp_path / alphabet).rename(root / alphabet)
    stream = image_folder(str(root), task_folders=True, test_share=0.2, image_size=8, workers=0)
    assert [task.name for task in stream.tasks] == ["0: Cyrillic", "1: Greek", "2: Latin"]
    assert [len(task.classes) for task in stream.tasks] == [4, 3, 2]
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(16, 4), (12, 3), (8, 2)]
    paths = {
        part: {
            source.dataset.paths[row]
            for task in stream.tasks
            for source in [getattr(task, part)]
            for row in source.rows
        }
        for part in ("train", "test")
    }
    assert len(paths["train"]) == 36
    assert not {p.parent / p.name for p in paths["train"]} & paths["test"]
    again = image_folder(
        str(root), task_folders=True, test_share=0.2, image_size=8, workers=0, class_order="random", seed=1
    )
    assert {task.name.partition(": ")[2] for task in again.tasks} == {"Cyrillic", "Greek", "Latin"}
    with pytest.raises(UsageError, match=r"expected images under train/TASK/CLASS/ .* stream.test_share=0.2"):
        image_folder(str(root), task_folders=True, image_size=8)
    with pytest.raises(UsageError, match="the 3 folders are the tasks"):
        image_folder(str(root), task_folders=True, test_share=0.2, image_size=8, tasks=2)
    make(tmp_path / "apart", each=5)
    with pytest.raises(UsageError, match="has train/ and test/ of its own"):
        image_folder(str(tmp_path / "apart"), test_share=0.2, image_size=8)
    with pytest.raises(UsageError, match=r"holds no folders of images. Expected TASK/CLASS"):
        image_folder(str(root / "Greek"), task_folders=True, test_share=0.2, image_size=8)
