"""kill -9 at moments drawn over the whole run: the resumed run equals the uninterrupted one bit for bit, no file is half."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from frostline.core.files import LOCK, PART
from frostline.records import checkpoints
from tests.campaign.children import QUIET, run, start, wait
from tests.campaign.conftest import FULL, SEED

DIGITS = (
    "stream=split_digits",
    "stream.tasks=3",
    "stream.classes_per_task=3",
    "model=mlp",
    "model.hidden=[32,32]",
    "trainer.epochs=20",
)
FAMILIES = {
    "finetune": DIGITS,
    "replay and ewc": (*DIGITS, "strategy=[replay,ewc]", "strategy.ewc.samples=30"),
    "online replay": (*DIGITS, "strategy=replay", "strategy.replay.update=step", "strategy.replay.buffer=class_balanced"),
    "lwf": (*DIGITS, "strategy=lwf"),
    "der_pp": (*DIGITS, "strategy=der_pp"),
    "er_ace": (*DIGITS, "strategy=er_ace"),
    "packnet": (*DIGITS, "strategy=packnet", "stream.scenario=task"),
    "slda": (*DIGITS, "strategy=slda"),
    "continual_backprop": (*DIGITS, "strategy=continual_backprop"),
    "cumulative": (*DIGITS, "strategy=cumulative"),
    "joint": (*DIGITS, "strategy=joint"),
    "lisa": (*DIGITS, "selector=lisa", "selector.interval=7"),
    "autofreeze": (*DIGITS, "selector=autofreeze", "optimizer=adam"),
    "cache and delta": (*DIGITS, "strategy=partial", "checkpoint.delta=true", "schedule=cosine"),
    "si": (*DIGITS, "strategy=si"),
    "gpm": (*DIGITS, "strategy=gpm", "strategy.gpm.samples=20"),
    "gem and wise_ft": (*DIGITS, "strategy=[gem,wise_ft]", "strategy.gem.per_task=20"),
    "cls_er": (*DIGITS, "strategy=cls_er"),
    "gdumb": (*DIGITS, "strategy=gdumb"),
    "independent": (*DIGITS, "strategy=independent", "stream.scenario=task"),
    "ranpac": (*DIGITS, "strategy=ranpac", "strategy.ranpac.projection=50"),
    "seeds at once": (*DIGITS, "strategy=replay", "trainer.seeds=[0,1,2]"),
    "images, workers, augmentation": (
        "stream=image_folder", "stream.data_root=../photos", "stream.tasks=2", "stream.image_size=12", "stream.workers=1",
        "trainer.augment=[flip]", "model=cnn", "trainer.epochs=4", "trainer.batch_size=8", "strategy=replay",
    ),
    "sweep": ("-m", *DIGITS[:-1], "trainer.epochs=8", "strategy=finetune,replay", "seed=0,1"),
}  # fmt: skip
SHORT = ("replay and ewc", "lisa", "seeds at once")
BY_THE_CLOCK = ("seconds", "energy_joules", "peak_memory_bytes", "usd", "co2e_kg")


def photos(root: Path) -> None:
    """Write small images of two classes of noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, each in (("train", 24), ("test", 6)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(each):
                Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(root / part / name / f"{i}.png")


def outcome(folder: Path) -> dict[str, object]:
    """Return all that must be equal of each run below the folder, by its place."""
    found: dict[str, object] = {}
    for path in sorted(folder.glob("**/result.json")):
        content = json.loads(path.read_text())
        ledger = [{k: v for k, v in row.items() if k not in BY_THE_CLOCK} for row in content["ledger"]]
        weights = {n: t.tolist() for n, t in checkpoints.load(path.parent)["model"].items()}
        kept = (content["status"], content["accuracy"], content["loss"], content["metrics"], ledger, content["data"])
        found[str(path.parent.relative_to(folder))] = (*kept, weights)
    return found


def check_whole(folder: Path) -> None:
    """Everything that is there after a kill can be read."""
    for path in folder.rglob("*"):
        if path.name == "result.json":
            json.loads(path.read_text())
        elif path.name == "checkpoint.pt":
            checkpoints.load(path.parent)
        elif path.suffix == ".csv" and path.name != "curve.csv":
            assert path.read_text().endswith("\n")


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in SHORT else pytest.mark.slow) for f in FAMILIES])
def test_a_killed_run_ends_as_an_uninterrupted_one(family, tmp_path, times, said):
    torch.set_num_threads(1)
    arguments = (*FAMILIES[family], *QUIET)
    where = "hydra.sweep.dir" if "-m" in arguments else "hydra.run.dir"
    if "image" in family:
        photos(tmp_path / "photos")
    code, took = run(tmp_path / "whole", *arguments, f"{where}=run")
    assert code == 0, (tmp_path / "whole" / "log.txt").read_text()
    wanted = outcome(tmp_path / "whole" / "run")
    assert wanted
    draw, count, resumed = random.Random(f"{SEED} {family}"), times(2, 50), 0
    for number in range(count):
        folder = tmp_path / f"killed {number}"
        child = start(folder, *arguments, f"{where}=run")
        time.sleep(draw.random() * took)
        os.kill(child, signal.SIGKILL)
        killed = wait(child) == -signal.SIGKILL
        resumed += killed
        check_whole(folder / "run") if (folder / "run").exists() else None
        if any((folder / "run").rglob("overrides.yaml")) or any((folder / "run").glob("multirun.yaml")):
            code, _ = run(folder, "resume=run")
        else:  # before Hydra had written what it was
            shutil.rmtree(folder)
            code, _ = run(folder, *arguments, f"{where}=run")
        assert code == 0, f"kill {number}: {(folder / 'log.txt').read_text()}"
        assert outcome(folder / "run") == wanted, f"kill {number} of {family}"
        assert not [p for p in folder.rglob(f"*{PART}") if p.name != LOCK]
        shutil.rmtree(folder)
    said(f"kills, {family}: {count} of {count} equal ({resumed} before the end)")
    if FULL:
        torch.set_num_threads(2)
