"""What a run leaves behind: result.json, ledger.csv and accuracy.csv, each written whole."""

import csv
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from frostline.core import metrics
from frostline.core.files import atomic_write
from frostline.core.objectives import IGNORED, Classification
from frostline.core.peaks import utilisation
from frostline.core.types import Source, TaskStream
from frostline.costs import CostMeter, totals
from frostline.costs.meter import COLUMNS, LEARNING
from frostline.loop.evaluation import evaluation_data
from frostline.loop.progress import Progress, Row
from frostline.records.environment import environment

SCHEMA = "frostline.result/2"
READABLE = ("frostline.result/1", SCHEMA)
NAME, WITHIN, OUTPUT_DRIFT, ANSWERS = "result.json", "within.csv", "output_drift.csv", "answers.jsonl"
DRIFT_COLUMNS = ("task", "steps", "suite", "kl", "entropy", "same")
REQUIRED = {
    "status": str, "config": dict, "seed": int, "stream": dict, "accuracy": list, "metrics": dict, "ledger": list,
    "totals": dict, "full_finetuning": dict, "training_state": list, "prefix_cache": list,
}  # fmt: skip
TRAINING_PHASES = LEARNING


def result(
    *,
    status: str,
    config: dict[str, Any],
    device: torch.device,
    stream: TaskStream,
    progress: Progress,
    meter: CostMeter,
    full: dict[str, float | None],
    prefix_cache: list[dict[str, Any]],
    data: dict[str, str],
    error: str | None = None,
) -> dict[str, Any]:
    """Return the content of result.json, as the outer contract describes it."""
    rows, losses = (_filled(own, len(stream)) for own in (progress.accuracy, progress.loss))
    held_out = {
        name: {key: values + [None] * (len(stream) + 1 - len(values)) for key, values in suite.items()}
        for name, suite in progress.held_out.items()
    }
    which = config.get("trainer", {}).get("evaluate_on", "test")
    return {
        "schema": SCHEMA,
        "status": status,
        "error": error,
        "config": config,
        "seed": config["seed"],
        "environment": environment(device),
        "stream": {
            "name": stream.name,
            "scenario": stream.scenario,
            "tasks": [task.name for task in stream.tasks],
            "unit": stream.objective.unit,
            "targets": stream.targets,
            "classes": list(stream.class_names),
        },
        "data": data,
        "accuracy": rows,
        "loss": losses,
        "held_out": held_out,
        "bits_per_byte": bits_per_byte(stream, losses, held_out, which),
        "task_aware": _filled(progress.aware, len(stream)),
        "by_class": _by_class(stream, progress, which),
        "flips": progress.flips,  # after each task but the first: targets that became wrong, right, of how many
        "training_loss": [progress.training_loss(task.index) for task in stream.tasks],
        "output_drift": progress.output_drift,
        "answers": answered(progress.answers),
        "harness": progress.harness,
        "within": [list(row) for row in progress.within],  # task, steps taken, accuracy on each task
        "metrics": metrics_of(progress, len(stream)),
        "ledger": [dict(vars(row)) for row in meter.rows],
        "totals": totals(meter.rows),
        "uncounted_operators": sorted(meter.uncounted),
        "retrained": progress.retrained,
        "full_finetuning": full,
        "utilisation": _utilisation(config, device, full),
        "training_state": progress.state_bytes,
        "prefix_cache": prefix_cache,
    }


def metrics_of(progress: Progress, tasks: int) -> dict[str, float | None]:
    """Return every metric of a run as far as it has come, by name."""
    return metrics.all_metrics(
        metrics.matrix(_filled(progress.accuracy, tasks)),
        held_out=[suite["accuracy"] for suite in progress.held_out.values()],
        held_out_loss=[suite["loss"] for suite in progress.held_out.values()],
        within=metrics.matrix(progress.within) if progress.within else None,
        aware=metrics.matrix(_filled(progress.aware, tasks)) if progress.aware else None,
        flips=progress.flips,
        drift=progress.output_drift,
    )


def _utilisation(config: dict[str, Any], device: torch.device, full: dict[str, float | None]) -> float | None:
    """Return which share of the device's peak learning reached, where that is known."""
    if device.type != "cuda":
        return None
    precision = config.get("trainer", {}).get("precision", "float32")
    name = torch.cuda.get_device_name(device)
    return utilisation(full["learning_flops"] or 0, full["learning_seconds"] or 0, name, precision)


def answered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how many answers there were to each task's prompts after each, and their mean scores."""
    found: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["after"], row["of"]), []).append(row)
    return [
        {"after": after, "of": of, "prompts": len(own)}
        | {key: sum(row[key] for row in own) / len(own) for key in ("exact", "rouge_l")}
        for (after, of), own in found.items()
    ]


def bits_per_byte(
    stream: TaskStream, losses: Sequence[Row], held_out: dict[str, dict[str, Row]], which: str
) -> dict[str, Any] | None:
    """Return the losses on tasks and held-out suites in bits a byte of text; None where tokens do not say how long they are.

    It is what models with different tokens can be compared by: what a text's tokens cost together, by the bytes of the text.
    """
    lengths = None if stream.tokens is None else stream.tokens.octets
    if lengths is None:
        return None

    def bits(source: Source, values: Sequence[float | None]) -> Row:
        y = source.labels.flatten().cpu()
        y = y[y != IGNORED]
        octets = int(lengths[y.long()].sum())
        by = len(y) / octets / math.log(2) if octets else None
        return [None if v is None or by is None else v * by for v in values]

    columns = [
        bits(evaluation_data(t, which), column)
        for t, column in zip(stream.tasks, zip(*losses, strict=True), strict=True)
    ]
    return {
        "tasks": [list(row) for row in zip(*columns, strict=True)],
        "held_out": {s.name: bits(s.source, held_out[s.name]["loss"]) for s in stream.suites if s.name in held_out},
    }


def _by_class(stream: TaskStream, progress: Progress, which: str) -> dict[str, float]:
    """Return the share of each class's samples that were right at the last evaluation, of the tasks learned by then."""
    tasks = stream.tasks[: len(progress.right)]
    labels = [(task.test if which == "test" else task.validation or task.test).labels for task in tasks]
    if not labels or labels[0].ndim > 1 or not isinstance(stream.objective, Classification):
        return {}
    y, right = torch.cat(labels), torch.cat(progress.right)
    counts = torch.bincount(y, minlength=stream.classes)
    hits = torch.bincount(y[right], minlength=stream.classes)
    return {str(c): int(hits[c]) / int(counts[c]) for c in counts.nonzero().flatten().tolist()}


def _filled(rows: Sequence[Row], tasks: int) -> list[Row]:
    """Return a matrix with the rows that are still to come."""
    return [list(row) for row in rows] + [[None] * tasks for _ in range(tasks + 1 - len(rows))]


def against_full(meter: CostMeter, progress: Progress, saw_everything: bool) -> dict[str, float | None]:
    """Return this run's learning beside full fine-tuning: of the same batches, and (`plain_...`) of each task's own data alone.

    The first says what freezing saved; the second what the method costs altogether, with replayed samples and second passes.
    Operations are from the step-cost model, seconds from the reference steps timed on this machine during the run, or from the
    run's own steps where it trained everything anyway.
    """
    learning = [row for row in meter.rows if row.phase in TRAINING_PHASES]
    spent, took = sum(row.flops for row in learning), sum(row.seconds for row in learning)
    seen, per_sample = sum(progress.seen.values()), progress.reference_seconds
    if per_sample is None and saw_everything and seen:
        per_sample = sum(row.seconds for row in learning if row.phase == "train") / seen
    found: dict[str, float | None] = {"learning_flops": spent, "learning_seconds": took}
    for prefix, samples in (("", progress.seen), ("plain_", progress.plain)):
        flops = progress.full_flops(samples)
        seconds = None if per_sample is None else per_sample * sum(samples.values())
        found |= {
            f"{prefix}flops": flops,
            f"{prefix}seconds": seconds,
            f"{prefix}flops_ratio": spent / flops if flops else None,
            f"{prefix}seconds_ratio": took / seconds if seconds else None,
        }
    return found


def write(folder: Path, content: dict[str, Any]) -> None:
    """Write the result and its spreadsheets."""
    with atomic_write(folder / "ledger.csv") as f:
        table = csv.DictWriter(f, COLUMNS)
        table.writeheader()
        table.writerows(content["ledger"])
    with atomic_write(folder / "accuracy.csv") as f:
        lines = csv.writer(f)
        lines.writerow(["after", *content["stream"]["tasks"]])
        for i, row in enumerate(content["accuracy"]):
            lines.writerow(["untrained" if i == 0 else content["stream"]["tasks"][i - 1], *row])
    if content.get("within"):
        with atomic_write(folder / WITHIN) as f:
            lines = csv.writer(f)
            lines.writerow(["task", "steps_taken", *content["stream"]["tasks"]])
            lines.writerows([int(task), int(steps), *row] for task, steps, *row in content["within"])
    if rows := content.get("output_drift"):
        with atomic_write(folder / OUTPUT_DRIFT) as f:
            lines = csv.writer(f)
            names = list(rows[0]["mass"])
            blocks = [f"{kind} {i + 1}" for kind in ("attention", "mlp") for i in range(len(rows[0][kind]))]
            lines.writerow([*DRIFT_COLUMNS, *(f"mass of {name}" for name in names), *blocks])
            for row in rows:
                masses = [row["mass"].get(name) for name in names]
                lines.writerow([*(row[key] for key in DRIFT_COLUMNS), *masses, *row["attention"], *row["mlp"]])
    with atomic_write(folder / NAME) as f:
        # A line a key: json's own indent is ten times slower. No newline at the end: cut off, it would not be missed.
        lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items()]
        f.write("{\n" + ",\n".join([*lines, f'"checksum": "{_checksum(content)}"']) + "\n}")


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def is_complete(folder: Path) -> bool:
    """Tell whether a complete run is in the folder."""
    try:
        return read(folder)["status"] == "complete"
    except (OSError, ValueError):  # none, or one killed after the last task's checkpoint
        return False


def read(folder: Path) -> dict[str, Any]:
    """Return the content of folder/result.json; ValueError where it is not a result of this version."""
    path = folder / NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("schema") not in READABLE:
        raise ValueError(f"{path} is not a {SCHEMA} file")
    before = content.pop("checksum", None)
    if before is None:  # an older file; or a bit of the key's own name is another
        before = next(
            (v for k, v in content.items() if v == _checksum({n: o for n, o in content.items() if n != k})), None
        )
    if before is not None and before != _checksum(content):
        raise ValueError(f"{path} is damaged, or was changed by hand: its checksum is wrong")
    for key, kind in REQUIRED.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{path} has no {key}, or one of another type")
    return {"loss": None, "held_out": {}, "uncounted_operators": [], "data": {}, "retrained": [], **content}
