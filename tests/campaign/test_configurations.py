"""Configurations drawn at random: valid ones run two steps, invalid ones get one message and exit code 1, none a traceback."""

import shutil
import sys
from pathlib import Path

import hypothesis
import torch
from hypothesis import strategies as st

from frostline.app.config import options_of
from tests.campaign.conftest import FULL, SEED
from tests.conftest import in_process

STREAMS = (
    "split_digits",
    "permuted_digits",
    "rotated_digits",
    "split_fashion_mnist_mini",
    "split_digitz",
    "table",
    "image_folder",
)
MODELS = ("linear", "mlp", "cnn", "slim_resnet18", "vit", "minilm", "mlpp", "timm")
NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "-1",
    "0.5",
    "1e9",
    "1e-9",
    "nan",
    "inf",
    "null",
    "true",
    "two",
    "[1,2]",
    "''",
    "[]",
    "{a:1}",
)
KEYS = (
    "seed", "trainer.epochs", "trainer.batch_size", "trainer.max_steps", "trainer.threads", "trainer.evaluate_on",
    "trainer.prefix_cache", "trainer.augment", "trainer.seeds", "trainer.precision", "trainer.channels_last", "trainer.fused",
    "trainer.kernels", "stream.tasks", "stream.scenario", "stream.class_order", "stream.classes_per_task",
    "stream.samples_per_task", "stream.samples_per_class", "stream.validation", "stream.online", "stream.scaling",
    "model.hidden", "model.weights", "selector.k", "selector.warmup_tasks", "selector.fraction", "selector.rank",
    "selector.include", "optimizer.lr", "optimizer.momentum", "optimizer.weight_decay", "schedule.warmup", "schedule.per",
    "cost.price_per_hour", "cost.energy", "cost.reference_steps", "checkpoint.delta", "figures", "held_out", "tracking.mode",
    "trainer.epoch", "strtegy", "stream", "+trainer.more", "strategy.replay.capacity", "strategy.ewc.strength",
)  # fmt: skip
VALUES = (
    *NUMBERS, "class", "task", "domain", "test", "validation", "on", "off", "auto", "bfloat16", "float32", "[flip]", "random",
    "natural", "[0,1,2,3]", "[[0,1],[2,3]]", "[32]", "[rotated_digits]", "[png]", "run", "imagenet", "unit", "standard",
)  # fmt: skip


@st.composite
def overrides(draw):
    """Return arguments of the command line: mostly sensible groups, with some settings that may be anything."""
    groups = {
        "stream": STREAMS, "model": MODELS, "selector": (*options_of("selector"), "lastk"),
        "optimizer": options_of("optimizer"), "schedule": options_of("schedule"),
        "strategy": (*options_of("strategy"), "[replay,ewc]", "[joint,replay]", "ewcc"),
    }  # fmt: skip
    chosen = [
        f"{group}={draw(st.sampled_from(list(options)))}" for group, options in groups.items() if draw(st.booleans())
    ]
    odd = draw(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=2))
    return [*chosen, *(f"{key}={value}" for key, value in odd)]


BASE = (
    "stream=split_digits", "model=mlp", "tracking=none", "figures=[]", "cost.reference_steps=0", "trainer.max_steps=2",
    "trainer.threads=1",
)  # fmt: skip


def launch(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Do what `python run.py` would; return the exit code and what it wrote to stderr."""
    given = {a.partition("=")[0].lstrip("+"): a for a in (*BASE, *arguments)}  # the last of a key counts
    return in_process(*given.values(), f"hydra.run.dir={folder}")


def test_any_configuration_runs_or_is_refused_in_one_message(tmp_path, monkeypatch, times, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [sys.argv[0]])
    count = {"complete": 0, "refused": 0}
    threads = torch.get_num_threads()

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=times(40, 500), deadline=None, database=None, report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate] if FULL else [hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )  # fmt: skip
    @hypothesis.given(overrides())
    def check(arguments):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        code, errors = launch(arguments, folder)
        shown = " ".join(arguments)
        assert "Traceback" not in errors, f"{shown}\n{errors}"
        if code == 0:
            assert (folder / "result.json").is_file(), shown
            count["complete"] += 1
        else:
            assert code == 1, f"{shown}: {code}\n{errors}"
            lines = [line for line in errors.splitlines() if line.startswith("frostline: ")]
            assert len(lines) >= 1, f"{shown}\n{errors}"
            count["refused"] += 1

    try:
        check()
    finally:
        torch.set_num_threads(threads)
    total = sum(count.values())
    said(f"configurations: {total} of {total} ({count['complete']} ran, {count['refused']} refused in one message)")
