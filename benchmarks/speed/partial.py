"""What partial retraining really saves: seconds, FLOPs and memory of learning one task, as shares of full fine-tuning.

    python benchmarks/speed/partial.py                     # about a quarter of an hour on 2 cores
    python benchmarks/speed/partial.py --models mlp --rounds 3

Each row trains one real task for five epochs through frostline's own loop, from the same weights in the same order, and is
billed by its own ledger: `train` + `cache`. Rounds are interleaved: every configuration runs once in each, in rotating order,
and is divided by the full fine-tuning of its own round; the figures are medians. `selection` is apart, since the tasks
here are short. Memory is what training must hold at once: weights, gradients, optimizer state, what backward keeps of one
batch, and the cached activations.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from frostline.core.checks import UsageError
from frostline.core.scope import Scope
from frostline.core.types import TaskStream, masked
from frostline.costs import CostMeter
from frostline.loop.lesson import Lesson
from frostline.loop.run import Run
from frostline.loop.settings import TrainerConfig
from frostline.loop.training import learn
from frostline.models import minilm, mlp, slim_resnet18, vit
from frostline.records.environment import environment
from frostline.selectors import Budget, Everything, HeadOnly, LastK, LoRA, Role, Selector
from frostline.speed.fast import Fast
from frostline.strategies import Finetune
from frostline.streams import from_arrays, package_docs

EPOCHS = 5
BOUNDS = {  # the ratios asked for: (model, configuration) -> at most this share of full fine-tuning's seconds
    ("mlp", "head, frozen"): 0.50, ("mlp", "head, cached"): 0.22,
    ("slim_resnet18", "last 2 of 8 blocks, frozen"): 0.48, ("slim_resnet18", "last 2 of 8 blocks, cached"): 0.30,
    ("minilm", "last 1 of 6 blocks, frozen"): 0.48, ("minilm", "last 1 of 6 blocks, cached"): 0.23,
    ("minilm", "head, frozen"): 0.35, ("minilm", "head, cached"): 0.08,
    ("minilm", "attention projections"): 0.80,
}  # fmt: skip
PER_FLOP = {"mlp": 1.25, "minilm": 1.10}  # seconds' ratio over FLOPs' ratio, at most


@dataclass
class Case:
    """A model with its data and its training."""

    stream: TaskStream
    model: nn.Module
    optimizer: Callable[..., torch.optim.Optimizer]
    batch_size: int
    rows: dict[str, tuple[Selector, bool]]  # name -> what thaws, and whether the frozen prefix is cached


def budgets() -> dict[str, tuple[Selector, bool]]:
    """Return the rows by budget, counting on the cache: 0.3 of a step is less than its forward pass."""
    return {f"budget {f}": (Budget(fraction=f, cache_aware=True), True) for f in (0.3, 0.5, 0.7)}


def small_rows() -> dict[str, tuple[Selector, bool]]:
    """Return the rows by kind of parameter that every model has."""
    return {"biases": (Role(role="biases"), False), "LoRA, rank 8": (LoRA(), False)}


def case(name: str) -> Case:
    """Build one of the three."""
    torch.manual_seed(0)
    if name == "mlp":
        stream = from_arrays("fashion_mnist", scaling="unit")
        rows = {"head, frozen": (HeadOnly(), False), "head, cached": (HeadOnly(), True)}
        return Case(
            stream, mlp(stream.shape, 10), partial(torch.optim.SGD, lr=0.05), 128, rows | budgets() | small_rows()
        )
    if name == "slim_resnet18":
        stream = from_arrays("fashion_mnist", samples_per_task=320)
        rows = {f"last 2 of 8 blocks, {'cached' if c else 'frozen'}": (LastK(k=2), c) for c in (False, True)}
        model = slim_resnet18(stream.shape, 10)
        return Case(stream, model, partial(torch.optim.SGD, lr=0.05), 64, rows | budgets() | small_rows())
    rows: dict[str, tuple[Selector, bool]] = {}
    for label, rule in (("last 1 of 6 blocks", LastK(k=1)), ("head", HeadOnly())):
        rows |= {f"{label}, {'cached' if c else 'frozen'}": (rule, c) for c in (False, True)}
    rows |= budgets()
    rows["attention projections"] = (Role(role="attention_projections"), False)
    rows["gate & up projections"] = (Role(role="mlp_gate_up"), False)
    try:
        stream = package_docs(tasks=1, samples_per_task=64)
        model = minilm(stream.shape, 10)
    except UsageError as error:  # the extra `text` is not installed: the same size with random weights, on images
        print(f"{error} Using a vision transformer of the same size instead.")
        stream = from_arrays("fashion_mnist", samples_per_task=64)
        model = vit(stream.shape, 10)
    return Case(stream, model, partial(torch.optim.AdamW, lr=2e-5), 16, rows | small_rows())


def train(case: Case, rule: Selector, cached: bool) -> dict[str, float]:
    """Learn the first task from the case's weights; return its bill."""
    model = copy.deepcopy(case.model)
    rule.prepare(model)
    settings = TrainerConfig(
        epochs=EPOCHS, batch_size=case.batch_size, compile="off", prefix_cache="on" if cached else "off"
    )
    run = Run(
        model, case.stream, Finetune(), rule, case.optimizer, CostMeter(), settings, Fast(settings), reference_steps=0
    )
    lesson = Lesson(run, case.stream[0])
    learn([lesson])
    rows = [row for row in run.meter.rows if row.phase in ("train", "cache")]
    state = run.progress.state_bytes[-1]
    return {
        "seconds": sum(row.seconds for row in rows),
        "flops": sum(row.flops for row in rows),
        "selection_seconds": sum(row.seconds for row in run.meter.rows if row.phase == "select"),
        "selection_flops": sum(row.flops for row in run.meter.rows if row.phase == "select"),
        "memory": weights(model) + state["gradient_bytes"] + state["optimizer_bytes"] + kept(lesson)
        + max(row.stored_bytes for row in rows),
    }  # fmt: skip


def weights(model: nn.Module) -> int:
    """Return the bytes of the model."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def kept(lesson: Lesson) -> int:
    """Return the bytes that backward keeps of one batch, weights left out."""
    run, task = lesson.run, lesson.task
    own = {p.untyped_storage().data_ptr() for p in run.model.parameters()}
    held: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return t

    batch = next(iter(task.train.batches(run.settings.batch_size)))
    with Scope(run.model, frozenset(run.progress.trained)).thawed(), saved_tensors_hooks(pack, lambda t: t):
        loss = task.objective.loss(masked(lesson.entrance.logits(batch), task.mask(batch)), batch.y)
        loss.backward()
    return sum(held.values())


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Run the rounds of one model; return its rows."""
    this = case(name)
    sides: dict[str, tuple[Selector, bool]] = {"full": (Everything(), False), **this.rows}
    bills: dict[str, list[dict[str, float]]] = {label: [] for label in sides}
    for number in range(-1, rounds):  # round -1 warms up
        order = list(sides)
        order = order[number % len(order) :] + order[: number % len(order)]
        for label in order:
            bill = train(this, *sides[label])
            if number >= 0:
                bills[label].append(bill)
        print(f"{name}: round {number + 1} of {rounds}", flush=True)
    result = []
    for label, own in bills.items():
        pairs = list(zip(own, bills["full"], strict=True))
        row: dict[str, Any] = {"model": name, "thawed": label}
        for key in ("seconds", "flops", "memory"):
            row[key] = statistics.median(b[key] for b in own)
            row[f"{key}_ratio"] = statistics.median(b[key] / full[key] for b, full in pairs)
        row["selection_seconds"] = statistics.median(b["selection_seconds"] for b in own)
        row["selection_flops_share"] = own[0]["selection_flops"] / own[0]["flops"]
        row["seconds_per_flop_ratio"] = row["seconds_ratio"] / row["flops_ratio"]
        row["bound"] = BOUNDS.get((name, label))
        row["per_flop_bound"] = PER_FLOP.get(name) if label != "full" else None
        result.append(row)
    return result


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table as the docs show it."""
    lines = [
        "| model | thawed | FLOPs | time | bound | time / FLOPs | memory | selection |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        bound = "" if r["bound"] is None else f"<= {r['bound']:.2f}"
        lines.append(
            f"| {r['model']} | {r['thawed']} | {r['flops_ratio']:.2f} | {r['seconds_ratio']:.2f} | {bound} | "
            f"{r['seconds_per_flop_ratio']:.2f} | {r['memory_ratio']:.2f} | {r['selection_seconds']:.2f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["mlp", "slim_resnet18", "minilm"]
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "partial.json")
    options = parser.parse_args()
    rows = [row for name in options.models for row in measure(name, options.rounds)]
    print(markdown(rows))
    for r in rows:
        if r["bound"] is not None and r["seconds_ratio"] > r["bound"]:
            print(f"over its bound: {r['model']}, {r['thawed']}: {r['seconds_ratio']:.3f} > {r['bound']}")
        if r["per_flop_bound"] is not None and r["seconds_per_flop_ratio"] > r["per_flop_bound"]:
            print(f"slower than its FLOPs: {r['model']}, {r['thawed']}: {r['seconds_per_flop_ratio']:.3f}")
    kept = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []  # models not measured this time
    rows = sorted(
        [row for row in kept if row["model"] not in options.models] + rows, key=lambda row: names.index(row["model"])
    )
    content = {
        "epochs": EPOCHS,
        "rounds": options.rounds,
        "environment": environment(torch.device("cpu")),
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
