"""Weights & Biases hears how a run ended, and a run hears W&B's own switches."""

import time

import pytest
from omegaconf import OmegaConf

from frostline.records.tracking import WandbTracker
from tests.conftest import wandb_records


def tracker(tmp_path, mode="offline"):
    cfg = OmegaConf.create({"project": "p", "entity": None, "mode": mode, "group": None, "tags": []})
    return WandbTracker(cfg, tmp_path, {"strategy": {"finetune": None}, "seed": 0})


def exit_code(tmp_path):
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    for _ in range(300):  # W&B's own service writes it, which a busy machine may hold up
        found = [r.exit.exit_code for r in wandb_records(path) if r.HasField("exit")]
        if found:
            return found[0]
        time.sleep(0.1)
    raise AssertionError("no exit code within 30 seconds")


@pytest.mark.parametrize("complete", [True, False])
def test_a_run_that_is_not_complete_is_marked_as_failed(complete, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    own = tracker(tmp_path)
    own.started(None)
    own.complete = complete
    own.close()
    assert exit_code(tmp_path) == (0 if complete else 1)


def test_wandbs_own_switch_is_heard(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    own = tracker(tmp_path, "online")
    own.started(None)
    own.close()
    assert not list(tmp_path.glob("wandb/*run*"))
