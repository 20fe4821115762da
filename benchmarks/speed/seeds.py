"""What training several seeds at once saves, against the same runs one after another.

    python benchmarks/speed/seeds.py                       # needs the full Fashion-MNIST
    python benchmarks/speed/seeds.py --seeds 3 --rounds 3

Both sides learn all five tasks of the protocol's stream with frostline, one epoch a task; data are read beforehand.
`training` is the bill's phase `train`; `everything` adds evaluation, and selection and consolidation, which each seed does
for itself on both sides. Rounds are interleaved, and the figures are medians of the rounds' ratios.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch

from frostline.core.rng import derive
from frostline.core.types import TaskStream
from frostline.costs import CostMeter
from frostline.loop.run import Run
from frostline.loop.settings import TrainerConfig
from frostline.loop.training import run_stream
from frostline.models import mlp
from frostline.records.environment import environment
from frostline.selectors import Everything
from frostline.speed.fast import Fast
from frostline.strategies import EWC, Finetune, Replay
from frostline.streams import from_arrays

CASES: dict[str, tuple[int, int, Any, float | None]] = {  # width, batch, strategy, speed-up asked for
    "width 400, batch 128, fine-tuning": (400, 128, Finetune, 1.4),
    "width 400, batch 128, replay": (400, 128, Replay, None),
    "width 400, batch 128, EWC": (400, 128, EWC, None),
    "width 100, batch 128, fine-tuning": (100, 128, Finetune, None),
    "width 100, batch 32, fine-tuning": (100, 32, Finetune, 2.5),
    "width 100, batch 32, replay": (100, 32, Replay, None),
    "width 100, batch 32, EWC": (100, 32, EWC, None),
}


def build(stream: TaskStream, width: int, batch: int, strategy: Any, seed: int) -> Run:
    """Return an ordinary run of the protocol."""
    device = next(iter(stream[0].train.batches(1, torch.arange(1)))).x.device
    torch.manual_seed(derive(seed, "model"))
    net = mlp(stream.shape, stream.classes, [width, width]).to(device)
    settings = TrainerConfig(epochs=1, batch_size=batch, compile="off", prefix_cache="off")
    optimizer = partial(torch.optim.SGD, lr=0.05)
    return Run(
        net, stream, strategy(), Everything(), optimizer, CostMeter(device), settings, Fast(settings), seed,
        reference_steps=0,
    )  # fmt: skip


def bill(runs: list[Run]) -> tuple[float, float]:
    """Return the seconds of training, and of everything."""
    rows = [row for run in runs for row in run.meter.rows]
    return sum(row.seconds for row in rows if row.phase == "train"), sum(row.seconds for row in rows)


def measure(stream: TaskStream, name: str, seeds: int, rounds: int) -> dict[str, Any]:
    """Run the rounds of one case."""
    width, batch, strategy, bound = CASES[name]
    sides: dict[str, list[tuple[float, float]]] = {"apart": [], "together": []}
    for number in range(-1, rounds):  # round -1 warms up
        for side in sorted(sides, reverse=bool(number % 2)):
            runs = [build(stream, width, batch, strategy, seed) for seed in range(seeds)]
            if side == "together":
                for run in runs:
                    run.keep_draws()
                run_stream(*runs)
            else:
                for run in runs:
                    run_stream(run)
            if number >= 0:
                sides[side].append(bill(runs))
    pairs = list(zip(sides["apart"], sides["together"], strict=True))
    return {
        "case": name,
        "seeds": seeds,
        "training_speedup": statistics.median(a[0] / b[0] for a, b in pairs),
        "everything_speedup": statistics.median(a[1] / b[1] for a, b in pairs),
        "seconds": sides,
        "bound": bound,
    }


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "seeds.json")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    stream = from_arrays("fashion_mnist", scaling="unit", device=options.device)
    rows = []
    print(f"| {options.seeds} seeds at once | training | everything | asked for |\n|---|---|---|---|")
    for name in options.cases:
        row = measure(stream, name, options.seeds, options.rounds)
        rows.append(row)
        bound = "" if row["bound"] is None else f">= {row['bound']}"
        print(f"| {name} | {row['training_speedup']:.2f} | {row['everything_speedup']:.2f} | {bound} |", flush=True)
    content = {"rounds": options.rounds, "environment": environment(torch.device(options.device)), "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
