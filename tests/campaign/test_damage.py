"""Files that were damaged, cut short, swapped or written to do harm, given to everything that reads: one error, or the same."""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from frostline.app.config import compose_config
from frostline.models import mlp
from frostline.records import checkpoints, curve, results, weights
from frostline.streams.columns import features_of
from frostline.streams.datasets import read_idx
from frostline.streams.folder import image_folder
from frostline.streams.frames import read
from tests.campaign.conftest import SEED


class Harm:
    def __reduce__(self):
        return os.system, ("touch harm_was_done",)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Return a folder with a good file for every reader."""
    from frostline.app.job import execute

    folder = tmp_path_factory.mktemp("good")
    threads = torch.get_num_threads()
    cfg = compose_config(
        "stream=split_digits", "stream.tasks=2", "model=mlp", "model.hidden=[8]", "strategy=replay", "trainer.epochs=1",
        "tracking=none", "figures=[]", "cost.reference_steps=0",
    )  # fmt: skip
    execute(cfg, folder, alone=False)
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"size": rng.normal(size=30), "label": [i % 3 for i in range(30)]})
    frame.to_csv(folder / "table.csv", index=False)
    frame.to_parquet(folder / "table.parquet")
    frame.to_json(folder / "table.json", orient="records")
    frame.to_json(folder / "table.jsonl", orient="records", lines=True)
    np.savez(folder / "table.npz", x=frame[["size"]].to_numpy(), y=frame["label"].to_numpy())
    weights._write(folder / "table.safetensors", {"x": torch.rand(30, 2), "y": torch.arange(30) % 3})
    for part in ("train", "test"):
        for name in ("a", "b"):
            (folder / "images" / part / name).mkdir(parents=True)
            Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(
                folder / "images" / part / name / "0.png"
            )
    import gzip

    with gzip.open(folder / "labels-idx1-ubyte.gz", "wb") as f:
        f.write(b"\x00\x00\x08\x01\x00\x00\x00\x04\x01\x02\x03\x04")
    return folder


def table(path: Path) -> Any:
    frame, _ = read(str(path), ("text", "label"), ("label",))
    return features_of(frame, "label", None, None)[0]


def images(folder: Path) -> Any:
    stream = image_folder(str(folder), tasks=2, image_size=9, workers=0)
    return [next(iter(task.train.batches(9))).x for task in stream.tasks]


READERS: dict[str, Callable[[Path], Any]] = {
    "checkpoint.pt": lambda path: checkpoints.load(path.parent),
    "result.json": lambda path: results.read(path.parent),
    "model.safetensors": lambda path: weights.load_into(mlp((1, 8, 8), 10, hidden=[8]), str(path.parent)),
    "curve.csv": lambda path: curve.read(path),
    "table.csv": table, "table.parquet": table, "table.json": table, "table.jsonl": table, "table.npz": table,
    "table.safetensors": table,
    "images/train/a/0.png": lambda path: images(path.parents[2]),
    "labels-idx1-ubyte.gz": lambda path: read_idx(path),
}  # fmt: skip


def damaged(whole: bytes, draw: random.Random, others: list[bytes]) -> tuple[str, bytes]:
    """Return one way of damage, and what it makes of a file."""
    kind = draw.choice(("bit", "bit", "bits", "cut", "cut", "zeros", "twice", "other", "pickle", "text", "empty"))
    raw = bytearray(whole)
    if kind in ("bit", "bits"):
        for _ in range(1 if kind == "bit" else 20):
            raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        raw = raw[: draw.randrange(len(raw))]
    elif kind == "zeros":
        first = draw.randrange(len(raw))
        raw[first : first + 64] = bytes(len(raw[first : first + 64]))
    elif kind == "twice":
        raw = raw * 2
    elif kind == "other":
        raw = bytearray(draw.choice(others))
    elif kind == "pickle":
        raw = bytearray(pickle.dumps({"format": checkpoints.FORMAT, "harm": Harm()}))
    elif kind == "text":
        raw = bytearray(json.dumps({"schema": results.SCHEMA, "status": "complete"}).encode())
    else:
        raw = bytearray()
    return kind, bytes(raw)


def test_damaged_files_are_refused_or_read_as_they_were(good, tmp_path, monkeypatch, times, said):
    """ValueError (ours among them) and OSError are answers; anything else, a hang, or harm done is not.

    What has a checksum of its own (checkpoints, results, weights) is besides never read as something else.
    """
    monkeypatch.chdir(tmp_path)
    draw, count, refused = random.Random(SEED), times(60, 200), 0
    others = [(good / name).read_bytes() for name in READERS]
    for number in range(count):
        name = list(READERS)[number % len(READERS)]
        folder = tmp_path / "tried"
        shutil.copytree(good, folder)
        expected = repr(READERS[name](folder / name))
        shutil.rmtree(folder)
        shutil.copytree(good, folder)
        kind, content = damaged((good / name).read_bytes(), draw, others)
        (folder / name).write_bytes(content)
        try:
            found = repr(READERS[name](folder / name))
        except (ValueError, OSError, EOFError):
            refused += 1
        except Exception as error:
            raise AssertionError(f"{name}, {kind}: {type(error).__name__}: {error}") from error
        else:
            if name in ("checkpoint.pt", "result.json", "model.safetensors"):
                assert found == expected, f"{name}, {kind}: read as something else"
        assert not (tmp_path / "harm_was_done").exists(), f"{name}, {kind}"
        shutil.rmtree(folder)
    said(f"damaged files: {count} of {count} ({refused} refused, the others read as what they hold)")
