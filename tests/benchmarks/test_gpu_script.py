"""benchmarks/speed/gpu.sh, as far as a machine without a GPU can run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from frostline.streams.datasets import DEBIAN_FASHION_MNIST

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_the_gpu_script_runs_on_the_cpu(tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks/speed/gpu.sh"), "cpu", sys.executable, str(tmp_path)],
        env={**os.environ, "ROUNDS": "1", "MODELS": "mlp"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "all.json").read_text())
    assert set(parts) == {"loops", "loops_compiled", "loops_bfloat16", "seeds"}
    assert len(parts["loops"]["rows"]) == 2 * 10  # two sides of ten methods
    assert all(row["milliseconds"] > 0 for row in parts["loops"]["rows"])
