"""benchmarks/speed/gpu.sh, as far as a machine without a GPU can run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from frostline.checks import UsageError
from frostline.streams.datasets import load

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_gpu_script_runs_on_the_cpu(tmp_path):
    try:
        load("fashion_mnist")
    except UsageError:
        pytest.skip("the full Fashion-MNIST is not here")
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks/speed/gpu.sh"), "cpu", sys.executable, str(tmp_path)],
        env={**os.environ, "ROUNDS": "1", "MODELS": "mlp"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "all.json").read_text())
    assert set(parts) == {"loops", "loops_compiled", "loops_bfloat16", "seeds"}
    assert len(parts["loops"]["rows"]) == 2 * 4  # two sides of four methods
    assert all(row["milliseconds"] > 0 for row in parts["loops"]["rows"])
