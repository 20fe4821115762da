"""Data sets of Hugging Face's: folders that save_to_disk wrote, folders of files, names."""

import numpy as np
import pandas
import pytest

from frostline.core.checks import UsageError
from frostline.streams.folder import image_folder
from frostline.streams.frames import read
from frostline.streams.table import from_table
from frostline.streams.text_table import text_table

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def texts(rows=40):
    kinds = datasets.ClassLabel(names=["pay", "light"])
    features = datasets.Features({"text": datasets.Value("string"), "label": kinds})
    return datasets.Dataset.from_dict(
        {"text": [f"number {i}" for i in range(rows)], "label": [i % 2 for i in range(rows)]}, features=features
    )


def test_what_save_to_disk_wrote_with_its_test_rows_and_the_names_of_its_classes(tmp_path):
    whole = datasets.DatasetDict({"train": texts(40), "validation": texts(10), "test": texts(20)})
    whole.save_to_disk(str(tmp_path / "set"))
    train, test = read(str(tmp_path / "set"), ("text", "label"))
    assert (len(train), len(test)) == (40, 20)
    stream = text_table(str(tmp_path / "set"), tasks=2, length=8)
    assert [task.name for task in stream.tasks] == ["0: light", "1: pay"]
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(20, 10)] * 2


def test_a_folder_of_parquet_files(tmp_path):
    rng = np.random.default_rng(0)
    for part, rows in (("train", 60), ("test", 30)):
        frame = pandas.DataFrame({"size": rng.normal(size=rows), "kind": [i % 3 for i in range(rows)]})
        frame.to_parquet(tmp_path / f"{part}.parquet")
    stream = from_table(str(tmp_path), "kind", tasks=3)
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(20, 10)] * 3


def images(rows=12):
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 255, (9, 9, 3), dtype=np.uint8) for _ in range(rows)]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    return datasets.Dataset.from_dict({"img": pixels, "label": [i % 2 for i in range(rows)]}, features=features)


def test_images_are_decoded_as_a_folder_of_them_is(tmp_path):
    whole = datasets.DatasetDict({"train": images(), "test": images(8)})
    whole.save_to_disk(str(tmp_path / "set"))
    stream = image_folder(str(tmp_path / "set"), tasks=2, image_size=9, scaling="unit", workers=0)
    batch = next(iter(stream[0].test.batches(4)))
    assert batch.x.shape == (4, 3, 9, 9)
    first = np.asarray(images(8)[0]["img"], dtype=np.float32) / 255
    assert any(np.abs(x.permute(1, 2, 0).numpy() - first).max() < 1e-6 for x in batch.x)
    with pytest.raises(UsageError, match=r"column 'img' holds images\. Expected stream=image_folder"):
        from_table(str(tmp_path / "set"))


@pytest.mark.parametrize(
    ("parts", "message"), [({"train": 12}, "has no test images"), ({"a": 4, "b": 4}, "expected one called train")]
)
def test_parts_that_are_missing(parts, message, tmp_path):
    datasets.DatasetDict({name: images(n) for name, n in parts.items()}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(UsageError, match=message):
        image_folder(str(tmp_path / "set"), tasks=2)


def test_a_name_that_cannot_be_fetched():
    with pytest.raises(UsageError, match="'nobody/nothing' is no file or folder here, and could not be fetched"):
        from_table("nobody/nothing")
    with pytest.raises(UsageError, match="'nobody/nothing' is no file or folder here, and could not be fetched"):
        image_folder("nobody/nothing")
