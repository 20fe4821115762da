"""What the rules behind `trainer.fused`, `channels_last`, `kernels`, `compile`, `precision` and `eval_batch_size` rest on.

python benchmarks/speed/options.py             # some five minutes on 2 cores, mostly cold compilations
python benchmarks/speed/options.py --models mlp --rounds 20 --parts updates
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 python ...    # as without AVX-512
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
from frostline.speed import batchnorm, im2col
from frostline.speed.layouts import KERNELS, with_kernels

PROCESSOR = torch.backends.cpu.get_cpu_capability()
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
NORMS = [  # batch, channels, pixels a side
    *((64, channels, size) for size in (28, 14, 7) for channels in (8, 16, 20, 32, 40, 64)), (64, 80, 7), (64, 160, 4),
    (10, 20, 28), (10, 40, 14), (128, 20, 32), (128, 40, 16), (128, 80, 8), (64, 24, 28), (64, 100, 28),
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

    def side(layout: torch.memory_format, compiled: bool, kernels: str = "off") -> Callable[[], object]:
        own = copy.deepcopy(net).to(memory_format=layout)  # type: ignore[call-overload]
        own = with_kernels(own, kernels, torch.device("cpu"))
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
    if any(
        kind is not nn.Conv2d and own.suits(m)
        for m in net.modules()
        for kind, own in KERNELS.items()
        if type(m) is kind
    ):
        sides["plain channels-last, own kernels"] = side(torch.channels_last, False, "on")
    sides["plain, bfloat16"] = _in_bfloat16(sides["plain"])
    found = medians(sides, rounds)
    for name, ms in found.items():
        print(f"  step, {name:33} {ms:8.2f} ms  {ms / found['plain']:.2f}", flush=True)


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
            "im2col": im2col.Im2colConvolution.apply(x, weight, None, *settings),
        }
        arriving = torch.randn_like(ways["torch"])
        sides: Any = {
            name: partial(torch.autograd.grad, y, weight, arriving, retain_graph=True) for name, y in ways.items()
        }
        found = medians(sides, rounds)
        where = f"{batch} x {inputs} -> {outputs}, {size}x{size}, kernel {kernel}, stride {stride}"
        share = found["im2col"] / found["torch"]
        fits = inputs >= im2col.CHANNELS and ways["torch"][0, 0].numel() <= im2col.PIXELS
        taken = "taken" if fits and PROCESSOR in im2col.Im2colConv2d.gains_on else ""
        print(
            f"  {where:46} torch {found['torch']:6.2f} ms  im2col {found['im2col']:6.2f} ms  {share:.2f} {taken}",
            flush=True,
        )


def norms(rounds: int) -> None:
    """Print the milliseconds of a batch-norm's backward pass in channels-last order: torch's kernel beside whole rows."""
    for batch, channels, size in NORMS:
        x = torch.randn(batch, channels, size, size).to(memory_format=torch.channels_last).requires_grad_()
        weight, bias = (torch.rand(channels).requires_grad_() for _ in range(2))
        running = (torch.zeros(channels), torch.ones(channels))
        ways = {
            "torch": F.batch_norm(x, *running, weight, bias, True, 0.1, 1e-5),
            "rows": batchnorm.BatchNormFunction.apply(x, weight, bias, *running, 0.1, 1e-5)[0],  # type: ignore[index]
        }
        arriving = torch.randn_like(ways["torch"])
        sides: Any = {
            name: partial(torch.autograd.grad, y, (x, weight, bias), arriving, retain_graph=True)
            for name, y in ways.items()
        }
        found = medians(sides, rounds)
        enough = batch * size * size >= batchnorm.PIXELS
        fits = channels < batchnorm.CHANNELS and channels % batchnorm.VECTOR and enough
        taken = "taken" if fits and PROCESSOR in batchnorm.UnevenBatchNorm2d.gains_on else ""
        where = f"{batch} x {channels}, {size}x{size}"
        share = found["rows"] / found["torch"]
        print(
            f"  {where:16} torch {found['torch']:6.2f} ms  rows {found['rows']:6.2f} ms  {share:.2f} {taken}",
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
        print(f"weight gradients of convolutions, processor with {PROCESSOR}")
        gradients(options.rounds)
        print("gradients of batch-norms")
        norms(options.rounds)
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
