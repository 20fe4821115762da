"""How long a whole sweep takes from a cold start: five strategies, three seeds each, on the protocol.

    python benchmarks/speed/sweep.py                              # needs the full Fashion-MNIST
    git worktree add /tmp/before d657699                          # the last commit before seeds at once
    python benchmarks/speed/sweep.py --before /tmp/before         # and how long it took there

Each sweep is a process of its own, started and timed as a user would, W&B offline, figures drawn. Rounds are interleaved,
and the shares are medians of the rounds' ratios against the first way in the list.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from frostline.records.environment import environment

ROOT = Path(__file__).parents[2]
SWEEP = ("-m", "experiment=split_fashion_mnist_sgd", "strategy=finetune,joint,ewc,replay,partial")
WAYS: dict[str, tuple[str, ...]] = {
    "one after another": ("seed=0,1,2",),
    "seeds at once": ("trainer.seeds=[0,1,2]",),
    "runs side by side": ("seed=0,1,2", "hydra/launcher=joblib"),
    "both": ("trainer.seeds=[0,1,2]", "hydra/launcher=joblib"),
}


def measure(checkout: Path, settings: tuple[str, ...]) -> float:
    """Return the seconds of one sweep in an empty folder; RuntimeError where it fails."""
    environ = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": str(checkout / "src")}
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        command = [sys.executable, str(checkout / "run.py"), *SWEEP, *settings]
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
        seconds = time.perf_counter() - begin
        results = list(Path(folder).rglob("result.json"))
        if done.returncode or len(results) != 15:
            raise RuntimeError(
                f"{' '.join(command)}: {len(results)} of 15 runs, exit code {done.returncode}\n{done.stderr}"
            )
    return seconds


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout to compare with; it gets the first way")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sweep.json")
    options = parser.parse_args()
    ways = [(way, ROOT, WAYS[way]) for way in options.ways]
    if options.before is not None:
        ways.insert(0, ("before", options.before.resolve(), WAYS["one after another"]))
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in ways}
    for number in range(options.rounds):
        for name, checkout, settings in ways:
            seconds[name].append(measure(checkout, settings))
            print(f"round {number + 1}: {name}, {seconds[name][-1]:.0f} s", flush=True)
    base = next(iter(seconds.values()))
    rows: list[dict[str, Any]] = []
    print("| 5 strategies, 3 seeds | settings | seconds | share |\n|---|---|---|---|")
    for name, _, settings in ways:
        share = statistics.median(a / b for a, b in zip(seconds[name], base, strict=True))
        rows.append({"way": name, "settings": settings, "seconds": seconds[name], "share": share})
        print(f"| {name} | `{' '.join(settings)}` | {statistics.median(seconds[name]):.0f} | {share:.2f} |")
    content = {"rounds": options.rounds, "environment": environment(torch.device("cpu")), "rows": rows}
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
