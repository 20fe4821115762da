"""Comparisons over several seeds: minutes. Run with `make test-slow`."""

import json

import numpy as np
import pytest

from frostline.streams.datasets import DEBIAN_FASHION_MNIST

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="needs Debian's dataset-fashion-mnist"),
]


def forgetting(folder):
    found = sorted(folder.glob("*/result.json"))
    return np.array([json.loads(p.read_text())["metrics"]["forgetting"] for p in found])


def test_ewc_forgets_clearly_less_than_finetuning_over_five_seeds(cli, tmp_path):
    common = ["-m", "experiment=split_fashion_mnist_sgd", "tracking=none", "stream.scenario=task", "seed=0,1,2,3,4"]
    for name, extra in (("finetune", []), ("ewc", ["strategy.ewc.strength=1000"])):
        done = cli(tmp_path, *common, f"strategy={name}", *extra, f"hydra.sweep.dir={name}")
        assert done.returncode == 0, done.stderr
    plain, ewc = forgetting(tmp_path / "finetune"), forgetting(tmp_path / "ewc")
    assert len(plain) == len(ewc) == 5
    assert (ewc < plain).all()
    assert ewc.mean() < 0.5 * plain.mean()


def test_partial_retraining_of_a_resnet_costs_less_in_flops_and_in_seconds(cli, tmp_path):
    done = cli(
        tmp_path,
        "model=slim_resnet18",
        "tracking=none",
        "strategy=partial",
        "selector.k=2",
        "trainer.epochs=1",
        "hydra.run.dir=a",
    )
    assert done.returncode == 0, done.stderr
    full = json.loads((tmp_path / "a" / "result.json").read_text())["full_finetuning"]
    assert full["flops_ratio"] == pytest.approx(0.61, abs=0.01)
    assert full["seconds_ratio"] < 0.85
