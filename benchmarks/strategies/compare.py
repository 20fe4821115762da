"""Every strategy on Split Fashion-MNIST: what it learns, what it forgets, and what that costs.

    python benchmarks/strategies/compare.py                       # an hour or two on two cores; go on with the same command
    python benchmarks/strategies/compare.py --scenarios class --only replay ewc      # a part; the table keeps the rest

The protocol: a perceptron with two layers of 256 units, plain SGD, batches of 128, one pass over each task, all data, five
tasks of two classes; class-, task- and domain-incremental, each strategy where it applies. For each strategy and scenario six
configurations are tried on the first two tasks with one seed: three learning rates and two values of the strategy's own
most important number, or six learning rates where it has none. The best on held-out tenths of these two tasks learns the
whole stream with five seeds, and is evaluated on the test data. The search's bill stands beside. A run that is complete is not
taken again.
"""

import argparse
import csv
import io
import itertools
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline.app import launch
from frostline.app.config import conf_dir
from frostline.core.files import atomic_write
from frostline.records import results
from frostline.records.environment import environment

HERE = Path(__file__).parent
SCENARIOS = ("class", "task", "domain")
RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # at 0.4 some seeds die within five tasks, which two do not show
SEEDS = [0, 1, 2, 3, 4]
OWN: dict[str, tuple[str, tuple[float, ...]]] = {  # the number that matters most: its name, two values
    "ewc": ("strength", (10, 100)), "si": ("strength", (0.1, 1)), "mas": ("strength", (0.01, 0.1)),
    "rwalk": ("strength", (0.1, 1)), "l2_sp": ("strength", (0.01, 0.1)), "l2_init": ("strength", (0.001, 0.01)),
    "lwf": ("strength", (1, 5)), "der": ("alpha", (0.1, 0.5)), "der_pp": ("alpha", (0.1, 0.5)),
    "cls_er": ("strength", (0.1, 0.5)), "fdr": ("strength", (0.5, 2)), "scr": ("temperature", (0.07, 0.2)),
    "er_aml": ("temperature", (0.1, 0.3)), "lucir": ("less_forget", (1, 5)), "gem": ("margin", (0, 0.5)),
    "gpm": ("threshold", (0.95, 0.99)), "owm": ("alpha", (0.1, 1)), "hat": ("sparsity", (0.1, 0.75)),
    "packnet": ("prune", (0.5, 0.75)), "continual_backprop": ("rate", (1e-4, 1e-3)), "redo": ("threshold", (0.01, 0.1)),
    "wise_ft": ("share", (0.5, 0.8)), "ema": ("decay", (0.99, 0.999)), "slca": ("slow", (0.01, 0.1)),
    "layer_rates": ("decay", (0.5, 0.8)),
    "osf": ("share", (0.3, 0.6)), "o_lora": ("strength", (0.05, 0.5)),
    "shrink_and_perturb": ("shrink", (0.5, 0.8)), "task_arithmetic": ("scale", (0.3, 1)), "ties": ("keep", (0.2, 0.5)),
}  # fmt: skip
MEMORY = 500  # samples, for all that keep some
CHAINED = {
    "er_ace": "[replay,er_ace]",
    "er_aml": "[replay,er_aml]",
    "weighted_replay": "[replay,weighted_replay]",
    "wa": "[replay,lwf,wa]",
    "bic": "[replay,lwf,bic]",
}
ONLINE = ("er_ace", "er_aml")  # their memory takes samples as they come
EPOCHS = 24  # over GDumb's memory, which are as many steps as one over a task's samples
GRADIENTS = 40  # a task that OGD keeps, each of the size of the net; its 200 take 2 GB a seed
PROTOCOL = (
    "stream=split_fashion_mnist", "stream.scaling=unit", "model=mlp", "model.hidden=[256,256]", "optimizer=sgd",
    "trainer.batch_size=128", "trainer.epochs=1", "tracking=none", "figures=[]", "cost.reference_steps=0",
)  # fmt: skip


def settings_of(name: str) -> list[str]:
    """Return what a strategy is started with: chained with what its paper has it with, and the memory that all have."""
    given = [f"strategy={CHAINED.get(name, name)}"]
    members = CHAINED.get(name, f"[{name}]").strip("[]").split(",")
    for member in members:
        keys = (conf_dir() / "strategy" / f"{member}.yaml").read_text()
        if "  capacity:" in keys:
            given.append(f"strategy.{member}.capacity={MEMORY // 10 if member == 'bic' else MEMORY}")
        if "  per_task:" in keys:
            given.append(f"strategy.{member}.per_task={MEMORY // 5}")
        if "  projection:" in keys:
            given.append(f"strategy.{member}.projection=1000")
    if name == "gdumb":
        given.append(f"strategy.gdumb.epochs={EPOCHS}")
    if name == "ogd":
        given.append(f"strategy.ogd.samples={GRADIENTS}")
    if name in ONLINE:
        given.append("strategy.replay.update=step")
    return given


def trials_of(name: str) -> list[list[str]]:
    """Return the six configurations that are tried."""
    if name not in OWN:
        return [[f"optimizer.lr={rate}"] for rate in RATES]
    key, values = OWN[name]
    pairs = itertools.product(RATES[2:5], values)
    return [[f"optimizer.lr={rate}", f"strategy.{name}.{key}={value}"] for rate, value in pairs]


def slug(trial: list[str]) -> str:
    """Return a folder's name that says which settings these are, so that another choice is another run."""
    return "_".join(setting.partition("=")[0].rpartition(".")[2] + "=" + setting.partition("=")[2] for setting in trial)


def run(folder: Path, *arguments: str) -> str:
    """Do what `frostline run` would, unless the folder has it already; return what it refused, nothing where it went well."""
    if not any(results.is_complete(path.parent) for path in folder.glob("**/result.json")):
        said = io.StringIO()
        shutil.rmtree(folder, ignore_errors=True)
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            try:
                launch.main([*PROTOCOL, *arguments, f"hydra.run.dir={folder}"])
            except SystemExit as stop:
                if stop.code in (130, 143):  # a signal: that is meant for all of it
                    raise
                if stop.code:
                    return (
                        said.getvalue().strip().splitlines()[-1]
                        if said.getvalue().strip()
                        else f"exit code {stop.code}"
                    )
    return ""


def searched(name: str, scenario: str, out: Path, threads: int) -> tuple[list[str], float, str]:
    """Return the best of the trials on the first two tasks, the operations of all of them, and why there is none."""
    found, flops, refused = [], 0.0, ""
    for number, trial in enumerate(trials_of(name)):
        folder = out / "search" / scenario / name / slug(trial)
        common = (f"stream.scenario={scenario}", "stream.tasks=2", "stream.classes_per_task=2", "stream.validation=0.1")
        said = run(
            folder, *common, *settings_of(name), *trial, "trainer.evaluate_on=validation", f"trainer.threads={threads}"
        )
        if said:
            refused = said
            if "diverged" not in said and "became" not in said:
                return [], flops, refused  # does not apply here: no other number would
            continue
        content = results.read(folder)
        flops += content["totals"]["flops"]
        found.append((content["metrics"]["average_accuracy"], -number, trial))
    return (max(found)[2], flops, "") if found else ([], flops, refused)


def measured(name: str, scenario: str, out: Path, threads: int) -> dict[str, Any]:
    """Return a row of the table."""
    trial, flops, refused = searched(name, scenario, out, threads)
    row: dict[str, Any] = {"strategy": name, "scenario": scenario, "search_tflops": flops / 1e12}
    if not trial:
        return {**row, "refused": refused}
    folder = out / "runs" / scenario / name / slug(trial)
    said = run(
        folder,
        f"stream.scenario={scenario}",
        *settings_of(name),
        *trial,
        f"trainer.seeds={SEEDS}",
        f"trainer.threads={threads}",
    )
    contents = [results.read(path.parent) for path in sorted(folder.glob("seed_*/result.json"))]
    contents = [content for content in contents if content["status"] == "complete"]
    if not contents:
        return {**row, "refused": said}
    return {**row, "settings": trial, **summary(contents)}


def summary(contents: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over the seeds and the half width of a 95 % interval."""
    from scipy.stats import t

    def spread(values: list[float | None]) -> tuple[float | None, float | None]:
        known = [v for v in values if v is not None]  # one task has nothing to forget
        if len(known) < 2:
            return (float(known[0]) if known else None), None
        half = t.ppf(0.975, len(known) - 1) * np.std(known, ddof=1) / len(known) ** 0.5
        return float(np.mean(known)), float(half)

    learning = [[r for r in c["ledger"] if r["phase"] in results.TRAINING_PHASES] for c in contents]
    found: dict[str, Any] = {"seeds": len(contents)}
    for key in ("average_accuracy", "forgetting"):
        found[key], found[f"{key}_half"] = spread([c["metrics"][key] for c in contents])
    found["tflops"] = float(np.mean([sum(r["flops"] for r in rows) for rows in learning])) / 1e12
    found["seconds"], found["seconds_half"] = spread([sum(r["seconds"] for r in rows) for rows in learning])
    found["stored_bytes"] = max(r["stored_bytes"] for rows in learning for r in rows)
    return found


def main() -> None:
    """Take what is missing, write results/strategies.json, the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(path.stem for path in (conf_dir() / "strategy").glob("*.yaml"))
    parser.add_argument("--only", nargs="+", choices=known, default=known)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--out", type=Path, default=Path("outputs/strategies"), help="where the runs are kept")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    path = HERE / "results" / "strategies.json"
    path.parent.mkdir(exist_ok=True)
    content = json.loads(path.read_text()) if path.exists() else {"rows": []}
    pairs = list(itertools.product(options.scenarios, options.only))
    for number, (scenario, name) in enumerate(pairs):
        row = measured(name, scenario, options.out.absolute(), options.threads)
        kept = [r for r in content["rows"] if (r["strategy"], r["scenario"]) != (name, scenario)]
        content = {"environment": environment(torch.device("cpu")), "rows": [*kept, row]}
        with atomic_write(path) as f:
            json.dump(content, f, indent=1)
        said = row.get("refused") or f"accuracy {row['average_accuracy']:.3f}, {row['tflops']:.2f} TFLOPs"
        print(f"{number + 1}/{len(pairs)} {scenario:6} {name:20} {said[:120]}", flush=True)
    write_table(content["rows"])
    from frontier import frontier  # beside this file

    frontier(content["rows"], HERE / "results" / "frontier.png")


def write_table(rows: list[dict[str, Any]]) -> None:
    """Write results/strategies.csv, best first within a scenario; those that do not apply are left out."""
    columns = [
        "scenario", "strategy", "average_accuracy", "average_accuracy_half", "forgetting", "forgetting_half", "tflops",
        "seconds", "seconds_half", "stored_bytes", "search_tflops", "seeds", "settings",
    ]  # fmt: skip
    shown = [row for row in rows if "average_accuracy" in row]
    shown.sort(key=lambda row: (SCENARIOS.index(row["scenario"]), -row["average_accuracy"]))
    with atomic_write(HERE / "results" / "strategies.csv") as f:
        table = csv.writer(f)
        table.writerow(columns)
        for row in shown:
            values = [row.get(column) for column in columns[:-1]]
            table.writerow([*(f"{v:.4g}" if isinstance(v, float) else v for v in values), " ".join(row["settings"])])


if __name__ == "__main__":
    main()
