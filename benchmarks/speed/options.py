"""What the rules behind the trainer's `fused`, `channels_last`, `im2col`, `compile`, `precision` and `eval_batch_size` rest on.

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

from frostline.im2col import CHANNELS, PIXELS, Im2colConv2d, Im2colConvolution, with_im2col
from frostline.models import cnn, mlp, resnet18, slim_resnet18, vit

MODELS: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "mlp": (mlp, 128),
    "cnn": (cnn, 64),
    "slim_resnet18": (slim_resnet18, 64),
    "resnet18": (resnet18, 64),
    "transformer": (partial(vit, width=384, depth=6), 32),
}
GRADIENTS = [  # batch, channels in and out, pixels a side, stride, kernel: of resnet18, of slim_resnet18, of larger images
    (32, 64, 64, 28, 1, 3), (32, 64, 128, 28, 2, 3), (32, 128, 128, 14, 1, 3), (32, 128, 256, 14, 2, 3),
    (32, 128, 256, 14, 2, 1), (32, 256, 256, 7, 1, 3), (32, 256, 512, 7, 2, 3), (32, 256, 512, 7, 2, 1),
    (32, 512, 512, 4, 1, 3), (10, 512, 512, 4, 1, 3), (128, 512, 512, 4, 1, 3), (128, 256, 256, 8, 1, 3),
    (64, 40, 40, 14, 1, 3), (64, 80, 80, 7, 1, 3), (64, 80, 160, 7, 2, 3), (64, 160, 160, 4, 1, 3),
    (10, 160, 160, 4, 1, 3), (16, 256, 256, 14, 1, 3), (16, 512, 512, 7, 1, 3),
]  # fmt: skip
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

    def side(layout: torch.memory_format, compiled: bool, im2col: str = "off") -> Callable[[], object]:
        own = copy.deepcopy(net).to(memory_format=layout)  # type: ignore[call-overload]
        own = with_im2col(own, im2col, torch.device("cpu"))
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
    if any(type(m) is Im2colConv2d for m in with_im2col(copy.deepcopy(net), "on", torch.device("cpu")).modules()):
        sides["plain channels-last, im2col"] = side(torch.channels_last, False, "on")
    sides["plain, bfloat16"] = _in_bfloat16(sides["plain"])
    found = medians(sides, rounds)
    for name, ms in found.items():
        print(f"  step, {name:27} {ms:8.2f} ms  {ms / found['plain']:.2f}", flush=True)


def _in_bfloat16(step: Callable[[], object]) -> Callable[[], object]:
    def cast() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            step()

    return cast


def gradients(rounds: int) -> None:
    """Print the milliseconds of a convolution's weight gradient: torch's own kernel beside the one product of im2col."""
    for batch, inputs, outputs, size, stride, kernel in GRADIENTS:
        layout = torch.channels_last
        x = torch.randn(batch, inputs, size, size).to(memory_format=layout)
        weight = torch.randn(outputs, inputs, kernel, kernel).to(memory_format=layout).requires_grad_()
        settings: Any = ((stride, stride), (kernel // 2, kernel // 2))
        ways = {
            "torch": F.conv2d(x, weight, None, *settings),
            "im2col": Im2colConvolution.apply(x, weight, None, *settings),
        }
        arriving = torch.randn_like(ways["torch"])
        sides: Any = {
            name: partial(torch.autograd.grad, y, weight, arriving, retain_graph=True) for name, y in ways.items()
        }
        found = medians(sides, rounds)
        where = f"{batch} x {inputs} -> {outputs}, {size}x{size}, kernel {kernel}, stride {stride}"
        share = found["im2col"] / found["torch"]
        taken = "taken" if inputs >= CHANNELS and ways["torch"][0, 0].numel() <= PIXELS else ""
        print(
            f"  {where:46} torch {found['torch']:6.2f} ms  im2col {found['im2col']:6.2f} ms  {share:.2f} {taken}",
            flush=True,
        )


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
    parts = ["updates", "steps", "evaluations", "gradients"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if "gradients" in options.parts:
        print("weight gradients of convolutions")
        gradients(options.rounds)
    for name in options.models if set(options.parts) - {"gradients"} else ():
        build, batch = MODELS[name]
        torch.manual_seed(0)
        net = build((1, 28, 28), 10)
        print(f"{name}, batch {batch}")
        if "updates" in options.parts:
            updates(copy.deepcopy(net), options.rounds)
        if "steps" in options.parts:
            steps(net, batch, options.rounds)
        if "evaluations" in options.parts:
            evaluations(net, options.rounds)


if __name__ == "__main__":
    main()
