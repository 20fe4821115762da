"""How fast the training loop is: beside the floor (a bare loop of the same mathematics) and beside Avalanche 0.6.

    python benchmarks/speed/loops.py                       # needs the full Fashion-MNIST
    python benchmarks/speed/loops.py --models mlp --rounds 3

Every side of a model runs once in each round, in rotating order, from the same weights; a round's ratios are taken within
the round, and the figures are medians. Milliseconds are those of a training step, over all steps of the stream; what comes
once a task (importances, filling a buffer, evaluation) is on the bill elsewhere and left out on every side. `agrees` is the
largest difference, after two tasks, between frostline's weights and those of the floor's loop in the same memory layout:
0 is bit for bit.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from floor import MAS_STRENGTH, Bare
from peers import avalanche_benchmarks, avalanche_train
from torch import nn

from frostline.core.files import atomic_write
from frostline.core.types import TaskStream
from frostline.costs import CostMeter
from frostline.loop.lesson import Lesson
from frostline.loop.precision import set_precision
from frostline.loop.run import Run
from frostline.loop.settings import TrainerConfig
from frostline.loop.training import learn
from frostline.models import mlp, resnet18, slim_resnet18, vit
from frostline.records.environment import environment
from frostline.selectors import Everything, LastK, Selector
from frostline.speed.fast import Fast
from frostline.speed.layouts import with_fused, with_kernels, with_layout
from frostline.strategies import AGEM, ERACE, EWC, MAS, SI, Chain, DERpp, Finetune, LwF, Replay, Strategy
from frostline.streams import from_arrays

METHODS: dict[str, tuple[Callable[[], Strategy], Callable[[], Selector]]] = {
    "finetune": (Finetune, Everything),
    "replay": (Replay, Everything),
    "ewc": (EWC, Everything),
    "partial": (Finetune, partial(LastK, k=2, warmup_tasks=1)),
    "si": (SI, Everything),
    "mas": (partial(MAS, strength=MAS_STRENGTH), Everything),
    "lwf": (LwF, Everything),
    "der_pp": (DERpp, Everything),
    "er_ace": (lambda: Chain([Replay(), ERACE()]), Everything),
    "agem": (AGEM, Everything),
}
PENALTIES = (
    "ewc",
    "si",
    "mas",
    "lwf",
    "der_pp",
    "er_ace",
    "agem",
)  # whose mathematics is written in another order by hand
ON_MLP = tuple(METHODS)[4:]  # on the MLP alone, unless asked for
BOUNDS = {  # (model, method, side) -> frostline's share of that side's time, at most
    ("mlp", method, side): bound
    for method in METHODS
    if method != "partial"
    for side, bound in (("floor", 1.10), ("avalanche, standard", 1 / 8), ("avalanche, tensors", 1 / 2.2))
    if side != "avalanche, standard" or method in ("finetune", "replay", "ewc")
} | {(model, "finetune", "floor"): 0.90 for model in ("slim_resnet18", "resnet18")}


@dataclass
class Case:
    """A model with its data; the larger the model, the fewer the steps."""

    build: Callable[..., nn.Module]
    batch_size: int
    tasks: int
    steps_per_task: int | None
    lr: float = 0.05

    def stream(self, device: torch.device) -> TaskStream:
        """Return the stream on the device, cut to this many tasks and steps, with standardised pixels as Avalanche has them."""
        per_task = self.steps_per_task and self.steps_per_task * self.batch_size
        return from_arrays("fashion_mnist", tasks=self.tasks, samples_per_task=per_task, device=str(device))


CASES = {
    "mlp": Case(mlp, 128, 5, None),
    "slim_resnet18": Case(slim_resnet18, 64, 2, 5),
    "resnet18": Case(resnet18, 32, 2, 3),
    "transformer": Case(partial(vit, width=384, depth=6), 32, 2, 5),
}


class Frostline:
    """Our side: the loop as a run uses it, without observers; seconds and steps are those of its own bill."""

    def __init__(self, method: str, lr: float, batch_size: int, device: torch.device, **options: Any):
        self.method, self.lr, self.device = method, lr, device
        options = {"compile": "off", "prefix_cache": "off", **options}
        self.settings = TrainerConfig(epochs=1, batch_size=batch_size, **options)
        self.compile_seconds = 0.0

    def __call__(self, net: nn.Module, stream: TaskStream) -> tuple[float, int]:
        """Train `net` on every task once; return the seconds of the steps and their number."""
        make_strategy, make_selector = METHODS[self.method]
        optimizer = with_fused(partial(torch.optim.SGD, lr=self.lr), self.settings.fused)
        net = with_kernels(with_layout(net, self.settings.channels_last), self.settings.kernels, self.device)
        run = Run(
            net, stream, make_strategy(), make_selector(), optimizer, CostMeter(self.device), self.settings,
            Fast(self.settings), reference_steps=0,
        )  # fmt: skip
        for index in range(len(stream)):
            run.progress.begin_part(index)
            lesson = Lesson(run, stream[index])
            learn([lesson])
            lesson.consolidate()
        rows = [row for row in run.meter.rows if row.phase == "train"]
        self.compile_seconds += sum(row.seconds for row in run.meter.rows if row.phase == "compile")
        return sum(row.seconds for row in rows), sum(row.steps for row in rows)


def sides(
    name: str, method: str, case: Case, device: torch.device, avalanche: bool, extra: dict[str, str]
) -> dict[str, Callable[..., tuple[float, int]]]:
    """Return who runs: the floor, frostline, and on the MLP Avalanche."""
    found: dict[str, Callable[..., tuple[float, int]]] = {
        "floor": Bare(method, case.lr, case.batch_size),
        "frostline": Frostline(method, case.lr, case.batch_size, device, **extra),
    }
    if avalanche and name == "mlp" and method != "partial":
        for label, benchmark in avalanche_benchmarks(case.stream(torch.device("cpu"))).items():
            if (name, method, f"avalanche, {label}") in BOUNDS:
                found[f"avalanche, {label}"] = partial(_avalanche, method, benchmark, case)
    return found


def _avalanche(method: str, benchmark: Any, case: Case, net: nn.Module, stream: TaskStream) -> tuple[float, int]:
    return avalanche_train(method, benchmark, net, case.lr, case.batch_size)


def measure(
    name: str, method: str, rounds: int, device: torch.device, avalanche: bool, extra: dict[str, str]
) -> list[dict[str, Any]]:
    """Run the rounds of one model and method; return a row a side. extra: settings of frostline's side."""
    case = CASES[name]
    stream = case.stream(device)
    torch.manual_seed(0)
    weights = case.build(stream.shape, stream.classes).to(device)
    who = sides(name, method, case, device, avalanche, extra)
    times: dict[str, list[float]] = {label: [] for label in who}
    difference = _disagreement(who["floor"], who["frostline"], weights, stream)
    assert difference < _tolerance(method, device, **extra), (
        f"{name}, {method}: not the same mathematics: weights differ by {difference}"
    )
    for number in range(rounds):
        order = list(who)
        for label in order[number % len(order) :] + order[: number % len(order)]:
            seconds, steps = who[label](copy.deepcopy(weights), stream)
            times[label].append(1000 * seconds / steps)
    rows = []
    for label, own in times.items():
        ratios = [ours / theirs for ours, theirs in zip(times["frostline"], own, strict=True)]
        row: dict[str, Any] = {"model": name, "method": method, "side": label}
        row |= {"milliseconds": statistics.median(own), "frostline_ratio": statistics.median(ratios)}
        row |= {"all_milliseconds": own, "bound": BOUNDS.get((name, method, label))}
        if label == "frostline":
            row["agrees"] = difference
            row["compile_seconds"] = getattr(who[label], "compile_seconds", 0.0)
        rows.append(row)
    return rows


def _tolerance(method: str, device: torch.device, compile: str, precision: str) -> float:
    """Return how far weights may differ: by what other kernels round, after some steps of a net that amplifies it."""
    if precision != "float32":
        return 1.0
    if device.type != "cpu" or compile != "off":
        return 0.1
    return 0.01 if method in PENALTIES else 1e-5


def _disagreement(floor: Any, ours: Any, weights: nn.Module, stream: TaskStream) -> float:
    """Train both on two tasks from the same weights with the same kernels; return the largest difference between two weights.

    Rounding grows with every further task: a label that EWC draws flips on the last bit of a probability. In another layout,
    or by another kernel, the same sums round differently, and a batch-norm net of random weights blows that up within steps.
    """
    nets = [with_layout(copy.deepcopy(weights), ours.settings.channels_last) for _ in range(2)]
    stream = replace(stream, tasks=stream.tasks[:2])
    floor(nets[0], stream)
    own, ours.settings = ours.settings, replace(ours.settings, kernels="off")
    ours(nets[1], stream)
    ours.settings = own
    pairs = zip(nets[0].parameters(), nets[1].parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table as the docs show it."""
    lines = [
        "| model | method | side | ms a step | frostline's share | bound | agrees |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        share = "" if r["side"] == "frostline" else f"{r['frostline_ratio']:.3f}"
        bound = "" if r["bound"] is None else f"<= {r['bound']:.3f}"
        agrees = f"{r['agrees']:.0e}" if "agrees" in r else ""
        lines.append(
            f"| {r['model']} | {r['method']} | {r['side']} | {r['milliseconds']:.2f} | {share} | {bound} | {agrees} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, write the JSON after each model and method, print the table of all that is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-avalanche", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--compile", choices=["off", "on", "reduce-overhead"], default="off", help="of frostline's side"
    )
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of frostline's side")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "loops.json")
    options = parser.parse_args()
    device, extra = torch.device(options.device), {"compile": options.compile, "precision": options.precision}
    set_precision("float32", device)
    for name in options.models:
        for method in options.methods or [m for m in METHODS if name == "mlp" or m not in ON_MLP]:
            avalanche = not options.no_avalanche and device.type == "cpu"
            new = measure(name, method, options.rounds, device, avalanche, extra)
            store(options.out, new, device, extra)
            print(f"{name}, {method}: done", flush=True)
    rows = json.loads(options.out.read_text())["rows"]
    print(markdown(rows))
    for r in rows:
        if r["bound"] is not None and r["frostline_ratio"] > r["bound"]:
            print(
                f"over its bound: {r['model']}, {r['method']}, {r['side']}: {r['frostline_ratio']:.3f} > {r['bound']:.3f}"
            )


def store(path: Path, new: list[dict[str, Any]], device: torch.device, extra: dict[str, str]) -> None:
    """Put the rows of one model and method into the file, in the place of older ones."""
    done = {(row["model"], row["method"]) for row in new}
    kept = json.loads(path.read_text())["rows"] if path.is_file() else []
    rows = [row for row in kept if (row["model"], row["method"]) not in done] + new
    models, methods = list(CASES), list(METHODS)
    rows.sort(key=lambda row: (models.index(row["model"]), methods.index(row["method"])))
    content = {**extra, "environment": environment(device), "rows": rows}
    with atomic_write(path) as f:
        json.dump(content, f, indent=1)


if __name__ == "__main__":
    main()
