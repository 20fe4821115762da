"""How the framework's own share of the work grows: with tasks, classes, a memory, steps, and runs compared.

    python benchmarks/growth/growth.py                      # 2 minutes on two cores; writes results/growth.json

Every quantity is measured at several sizes; its exponent is the slope of a line through the logarithms, over the larger half of
the sizes. 1 is linear. Evaluating all tasks after each is quadratic by nature and left out: the run's own share is the wall
clock without what the bill calls training, consolidating and evaluating, a checkpoint's own bytes are those beside the three
matrices of what was evaluated. The own seconds are those of a run that evaluates nothing and writes no file: files are written
at a pace that keeps them to a share of the run, and stand in the own share.
"""

import argparse
import gc
import json
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from frostline.core.buffers import Buffer
from frostline.core.files import atomic_write
from frostline.core.sources import TensorSource
from frostline.core.types import Batch, TaskStream
from frostline.costs import CostMeter
from frostline.loop.evaluation import record_nothing
from frostline.loop.run import Run
from frostline.loop.settings import TrainerConfig
from frostline.loop.training import run_stream
from frostline.records import checkpoints, results
from frostline.records.curve import Curve
from frostline.records.environment import environment
from frostline.records.writer import ResultWriter
from frostline.report.compare import accuracy_against_cost
from frostline.report.figures import accuracy_matrix, run_figures, save_figure
from frostline.report.groups import group_runs
from frostline.selectors import Everything
from frostline.speed.fast import Fast
from frostline.strategies import Finetune
from frostline.streams import from_arrays, from_tasks

BOUND = 1.2
WORK = ("train", "consolidate", "evaluate")
CONFIG: dict[str, Any] = {
    "seed": 0, "strategy": {"finetune": None}, "selector": {"_target_": "x.Everything"}, "model": {"_target_": "x.linear"},
    "optimizer": {"_target_": "x.SGD"}, "stream": {"_target_": "x.digits"}, "trainer": {},
}  # fmt: skip


def class_incremental(tasks: int) -> TaskStream:
    """Return digits under the name of a class of its own in each task, 20 to learn from and 5 to test on."""
    data = from_arrays("digits", tasks=1)[0].train
    batch = next(iter(data.batches(25)))
    parts = [((batch.x[:20], torch.full((20,), t)), (batch.x[20:], torch.full((5,), t))) for t in range(tasks)]
    return from_tasks(parts, scenario="class")


@contextmanager
def allocated() -> Iterator[Callable[[], int]]:
    """Yield a function that says how many bytes Python objects and tensors' views took at most since the beginning."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def seconds(work: Callable[[], Any], repeats: int = 1) -> float:
    """Return the least of the times that the work takes."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return min(found)


class Unevaluated(Fast):
    """Take every other step of a run: evaluating all tasks after each would be quadratic."""

    def evaluate(self, runs: Sequence[Run], moment: int | None) -> None:
        """Leave the row empty."""
        for run in runs:
            record_nothing(run)


def of_a_step_a_task(stream: TaskStream, folder: Path | None, backend: type[Fast]) -> Run:
    """Return a run, which leaves its files in a folder where there is one."""
    settings = TrainerConfig(epochs=1, batch_size=20, compile="off", prefix_cache="off")
    save = folder and checkpoints.Saver(folder)
    return Run(
        nn.Sequential(nn.Flatten(), nn.Linear(64, len(stream))), stream, Finetune(), Everything(),
        lambda p: torch.optim.SGD(p, lr=0.01), CostMeter(), settings, backend(settings), reference_steps=0,
        save=save and (lambda state: save({"config": CONFIG, **state})),
        observers=[ResultWriter(folder, CONFIG), Curve(folder)] if folder else [], folder=folder,
    )  # fmt: skip


def worked(run: Run) -> float:
    """Return the seconds that the bill calls work."""
    return sum(row.seconds for row in run.meter.rows if row.phase in WORK)


def of_tasks(tasks: int) -> dict[str, float]:
    """Return what a class-incremental run of one step a task costs beside its work, and what it leaves."""
    ready = seconds(lambda: class_incremental(tasks))
    with allocated() as peak:
        stream = class_incremental(tasks)
        masks = sum(task.visible.nbytes for task in stream.tasks if task.visible is not None)
        ready_bytes = peak() + masks
    folder = Path(tempfile.mkdtemp())
    run = of_a_step_a_task(stream, folder, Fast)
    whole = seconds(lambda: run_stream(run))
    unevaluated = of_a_step_a_task(stream, None, Unevaluated)
    alone = seconds(lambda: run_stream(unevaluated))
    content = ResultWriter(folder, CONFIG).write(run, "complete")
    figures = seconds(lambda: run_figures(folder, content))
    figure = seconds(lambda: save_figure(accuracy_matrix(content), folder / "figures" / "accuracy_matrix"))
    matrices = 8 * 3 * tasks * (tasks + 1)
    found = {
        "ready_seconds": ready, "ready_bytes": ready_bytes, "run_seconds": whole,
        "own_seconds": alone - worked(unevaluated), "own_share": 1 - worked(run) / whole,
        "all_figures_seconds": figures, "largest_figure_seconds": figure,
        "result_bytes_a_task": (folder / results.NAME).stat().st_size / tasks,
        "checkpoint_own_bytes": (folder / checkpoints.NAME).stat().st_size - matrices,
    }  # fmt: skip
    shutil.rmtree(folder)
    return found


def of_classes(classes: int) -> dict[str, float]:
    """Return what it takes to make a stream of ten tasks of so many classes together."""
    x, y = torch.zeros(2 * classes, 4), torch.arange(2 * classes) % classes
    per = classes // 10
    parts = [((x[y // per == t], y[y // per == t]),) * 2 for t in range(10)]
    return {"ready_seconds": seconds(lambda: from_tasks(parts, scenario="task"), 3)}


def of_buffer(capacity: int) -> dict[str, float]:
    """Return the seconds of offering 32 samples to a full memory, late in a stream, and of drawing 32."""
    found = {}
    for rule in ("reservoir", "class_balanced", "ring"):
        memory = Buffer(capacity, rule)
        rows = torch.arange(capacity)
        for start in range(5):
            memory.add(Batch(rows[:, None].float(), rows % 10, rows * 0, rows + start))
        few = torch.arange(32)
        batch = Batch(few[:, None].float(), few % 10, few * 0, few)
        found[f"add_seconds_{rule}"] = (
            seconds(lambda memory=memory, batch=batch: [memory.add(batch) for _ in range(20)], 3) / 20
        )
        if rule == "reservoir":
            found["draw_seconds"] = seconds(lambda memory=memory: [memory.draw(32) for _ in range(20)], 3) / 20
    return found


def of_steps(steps: int) -> dict[str, float]:
    """Return what walking through so many batches of one sample takes, and the bytes held meanwhile."""
    source = TensorSource(torch.zeros(steps, 4), torch.zeros(steps, dtype=torch.int64), torch.arange(steps), 0)

    def walk() -> None:
        for _ in source.batches(1, torch.arange(steps)):
            pass

    with allocated() as peak:
        walk()
        held = peak()
    return {"seconds": seconds(walk), "held_bytes": held}


def of_runs(runs: int) -> dict[str, float]:
    """Return what comparing so many runs takes, each of a configuration of its own."""
    metrics = {"average_accuracy": 0.5, "forgetting": 0.1, "intransigence": None}
    ledger = [{"task": t, "phase": "train", "flops": 1, "seconds": 1.0, "usd": None} for t in range(5)]
    contents = [
        {
            "config": {**CONFIG, "optimizer": {"_target_": "x.SGD", "lr": number}}, "seed": 0, "metrics": dict(metrics),
            "ledger": ledger, "accuracy": [[0.1] * 5] * 6, "stream": {"name": "s"}, "data": {},
            "full_finetuning": {"flops_ratio": 0.5, "seconds_ratio": 0.5},
        }
        for number in range(runs)
    ]  # fmt: skip
    return {
        "group_seconds": seconds(lambda: group_runs(contents), 3),
        "figure_seconds": seconds(lambda: accuracy_against_cost(group_runs(contents))),
    }


SIZES: dict[str, tuple[Callable[[int], dict[str, float]], tuple[int, ...]]] = {
    "tasks": (of_tasks, (10, 30, 100, 300)),
    "classes": (of_classes, (100, 300, 1000, 3000)),
    "buffer": (of_buffer, (100, 1000, 10_000, 100_000)),
    "steps": (of_steps, (1000, 10_000, 100_000)),
    "runs compared": (of_runs, (50, 100, 200, 400)),
}


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """Return the slope of log(value) over log(size), over the larger half of the sizes."""
    half = len(sizes) // 2
    x, y = np.log(sizes[half:]), np.log(np.maximum(values[half:], 1e-9))
    return float(np.polyfit(x, y, 1)[0])


def main() -> None:
    """Measure, write the JSON, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many counts")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "growth.json")
    options = parser.parse_args()
    of_tasks(5)  # imports
    gc.collect()
    gc.freeze()  # what was imported is not searched again and again
    content: dict[str, Any] = {"environment": environment(torch.device("cpu")), "grows_with": {}}
    for name in options.only:
        measure, sizes = SIZES[name]
        tries = [[measure(size) for size in sizes] for _ in range(options.repeats)]
        rows = [{key: median(row[key] for row in same) for key in same[0]} for same in zip(*tries, strict=True)]
        print(f"\n| {name} | {' | '.join(map(str, sizes))} | exponent |\n|---|{'---|' * (len(sizes) + 1)}")
        found = {}
        for key in rows[0]:
            values = [row[key] for row in rows]
            slope = exponent(sizes, values)
            found[key] = {"values": values, "exponent": slope}
            over = " over" if slope > BOUND and key not in ("run_seconds", "own_share") else ""
            print(f"| {key} | {' | '.join(f'{v:.4g}' for v in values)} | {slope:.2f}{over} |", flush=True)
        content["grows_with"][name] = {"sizes": sizes, "measured": found}
    with atomic_write(options.out) as f:
        json.dump(content, f, indent=1)


if __name__ == "__main__":
    main()
