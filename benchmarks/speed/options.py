"""What the rules behind the trainer's `fused`, `channels_last`, `compile`, `precision` and `eval_batch_size` rest on.

python benchmarks/speed/options.py             # some five minutes on 2 cores, mostly cold compilations
python benchmarks/speed/options.py --models mlp --rounds 20 --parts updates
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

from frostline.models import cnn, mlp, resnet18, slim_resnet18, vit

MODELS: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "mlp": (mlp, 128),
    "cnn": (cnn, 64),
    "slim_resnet18": (slim_resnet18, 64),
    "resnet18": (resnet18, 64),
    "transformer": (partial(vit, width=384, depth=6), 32),
}
OPTIMIZERS: dict[str, Any] = {
    "SGD": partial(torch.optim.SGD, lr=1e-4),
    "SGD, momentum": partial(torch.optim.SGD, lr=1e-4, momentum=0.9),
    "Adam": partial(torch.optim.Adam, lr=1e-4),
    "AdamW": partial(torch.optim.AdamW, lr=1e-4),
}


def medians(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Call each side once a round, in turn; return its median milliseconds. Two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-2, rounds):
        for name, work in sides.items():
            begin = time.perf_counter()
            work()
            if number >= 0:
                times[name].append(1000 * (time.perf_counter() - begin))
    return {name: statistics.median(own) for name, own in times.items()}


def updates(net: nn.Module, rounds: int) -> None:
    """Print the milliseconds of an optimizer's update alone."""
    weights = list(net.parameters())
    for p in weights:
        p.grad = torch.randn_like(p)
    for name, make in OPTIMIZERS.items():
        kinds: dict[str, dict[str, bool]] = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
        found = medians({kind: make(weights, **extra).step for kind, extra in kinds.items()}, rounds)
        print(f"  {name:14} " + "  ".join(f"{kind} {ms:.2f} ms" for kind, ms in found.items()), flush=True)


def steps(net: nn.Module, batch: int, rounds: int) -> None:
    """Print the milliseconds of a training step by memory layout and compilation."""
    x, y = torch.randn(batch, 1, 28, 28), torch.randint(0, 10, (batch,))

    def side(layout: torch.memory_format, compiled: bool) -> Callable[[], object]:
        own = copy.deepcopy(net).to(memory_format=layout)  # type: ignore[call-overload]
        forward: Callable[..., torch.Tensor] = torch.compile(own, dynamic=False) if compiled else own
        optimizer = torch.optim.SGD(own.parameters(), lr=0.01)
        images = x.to(memory_format=layout)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(forward(images), y).backward()
            optimizer.step()

        return step

    layouts = {"": torch.contiguous_format, "channels-last": torch.channels_last}
    sides = {
        f"{'compiled' if c else 'plain'} {n}".strip(): side(m, c) for n, m in layouts.items() for c in (False, True)
    }
    sides["plain, bfloat16"] = _in_bfloat16(sides["plain"])
    found = medians(sides, rounds)
    for name, ms in found.items():
        print(f"  step, {name:22} {ms:8.2f} ms  {ms / found['plain']:.2f}", flush=True)


def _in_bfloat16(step: Callable[[], object]) -> Callable[[], object]:
    def cast() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            step()

    return cast


def evaluations(net: nn.Module, rounds: int) -> None:
    """Print the milliseconds of evaluating 1024 samples by batch size, and with batch-norm folded into the convolutions."""
    net = net.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    samples = torch.rand(1024, 1, 28, 28)

    def side(model: nn.Module, size: int) -> Callable[[], object]:
        @torch.no_grad()
        def work() -> None:
            for part in torch.arange(1024).split(size):
                model(samples.index_select(0, part))

        return work

    sides = {f"batches of {size}": side(net, size) for size in (32, 128, 512, 1024)}
    if any(isinstance(m, nn.BatchNorm2d) for m in net.modules()):
        backbone = net.get_submodule("backbone")
        sides |= {"backbone, 128": side(backbone, 128), "backbone folded, 128": side(fuse(backbone), 128)}
    for name, ms in medians(sides, rounds).items():
        print(f"  evaluation, {name:22} {ms:8.2f} ms", flush=True)


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--parts", nargs="+", choices=["updates", "steps", "evaluations"], help="default: all")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for name in options.models:
        build, batch = MODELS[name]
        torch.manual_seed(0)
        net = build((1, 28, 28), 10)
        print(f"{name}, batch {batch}")
        if not options.parts or "updates" in options.parts:
            updates(copy.deepcopy(net), options.rounds)
        if not options.parts or "steps" in options.parts:
            steps(net, batch, options.rounds)
        if not options.parts or "evaluations" in options.parts:
            evaluations(net, options.rounds)


if __name__ == "__main__":
    main()
