"""What frostline adds to a bare PyTorch loop that does the same mathematics.

    python benchmarks/speed/overhead.py                 # a minute or two; needs the full Fashion-MNIST

The protocol is experiment=split_fashion_mnist_sgd (MLP 784-400-400-10, SGD 0.05, batches of 128, one epoch a task).
Both sides train all five tasks from the same weights on the same batches; the order within a pair alternates, and the
figure is the median ratio of the pairs. The bare loop holds its data as tensors too and does nothing but the steps.
"""

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

from frostline.costs import CostMeter
from frostline.models import mlp
from frostline.results import environment
from frostline.rng import derive, generator
from frostline.run import Run, Settings
from frostline.selectors import Everything
from frostline.strategies import EWC, Finetune, Replay, Strategy
from frostline.streams import from_arrays
from frostline.training import run_stream
from frostline.types import TaskStream

LR, BATCH, SEED = 0.05, 128, 0


def fresh_model(stream: TaskStream) -> nn.Module:
    """Return the protocol's net with the weights that seed 0 gives."""
    torch.manual_seed(derive(SEED, "model"))
    return mlp(stream.shape, stream.classes)


def bare(stream: TaskStream) -> tuple[float, nn.Module]:
    """Train with a hand-written loop; return its seconds and the net."""
    weights = fresh_model(stream)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)
    )
    net.load_state_dict(dict(zip(net.state_dict(), weights.state_dict().values(), strict=True)))
    data = [next(iter(task.train.batches(len(task.train)))) for task in stream.tasks]
    seconds = 0.0
    for t, batch in enumerate(data):
        seen = torch.arange(10) < 2 * (t + 1)
        begin = time.perf_counter()
        optimizer = torch.optim.SGD(net.parameters(), lr=LR)
        order = torch.randperm(len(batch), generator=generator(SEED, "order", t, 0))
        for first in range(0, len(batch), BATCH):
            rows = order[first : first + BATCH]
            logits = net(batch.x[rows]).masked_fill(~seen, -torch.inf)
            loss = nn.functional.cross_entropy(logits, batch.y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        seconds += time.perf_counter() - begin
    return seconds, net


def framework(stream: TaskStream, strategy: Strategy) -> tuple[float, nn.Module]:
    """Train with frostline; return the seconds its own bill charges to training, and the net."""
    settings = Settings(epochs=1, batch_size=BATCH, seed=SEED, reference_steps=0)
    optimizer = partial(torch.optim.SGD, lr=LR)
    run = Run(fresh_model(stream), stream, strategy, Everything(), optimizer, CostMeter(), settings)
    run_stream(run)
    return sum(row.seconds for row in run.meter.rows if row.phase == "train"), run.model


def main() -> None:
    """Run the pairs, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "overhead.json")
    options = parser.parse_args()
    stream = from_arrays("fashion_mnist", scaling="unit")
    bare(stream)
    framework(stream, Finetune())  # both warm
    pairs = []
    for number in range(options.pairs):
        sides = [lambda: bare(stream), lambda: framework(stream, Finetune())]
        if number % 2:
            ours, floor = sides[1](), sides[0]()
        else:
            floor, ours = sides[0](), sides[1]()
        for a, b in zip(floor[1].parameters(), ours[1].parameters(), strict=True):
            assert torch.equal(a, b), "the two sides did not do the same mathematics"
        pairs.append((floor[0], ours[0]))
        print(f"pair {number}: bare {floor[0]:.2f} s, frostline {ours[0]:.2f} s, ratio {ours[0] / floor[0]:.3f}")
    others = {type(s).__name__.lower(): framework(stream, s)[0] for s in (Replay(), EWC())}
    floor_s, ours_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"median: bare {floor_s:.2f} s, frostline {ours_s:.2f} s, ratio {ratio:.3f} (bound 1.25)")
    result = {
        "protocol": "experiment=split_fashion_mnist_sgd",
        "environment": environment(torch.device("cpu")),
        "pairs_seconds": pairs,
        "median_seconds": {"bare": floor_s, "frostline": ours_s},
        "median_ratio": ratio,
        "once_seconds": others,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
