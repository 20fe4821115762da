"""Accuracy and forgetting against the share of full fine-tuning's seconds: python cost_curve.py RUNS PAPER."""

import csv
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from frostline.records.results import read

COLUMNS = ("average_accuracy", "forgetting", "seconds_ratio", "flops_ratio", "seconds")
FAMILIES = {  # prefix of the name -> label, colour
    "full": ("full fine-tuning", "#333333"),
    "budget": ("budget (Fisher)", "#0b5394"),
    "random": ("budget, random values", "#9aa5b1"),
    "last_k": ("last k blocks", "#b45f06"),
    "autofreeze": ("autofreeze", "#38761d"),
    "head": ("head only", "#0b8a8a"),
    "lora": ("LoRA", "#741b47"),
    "norms": ("norms and head", "#7f6000"),
    "attention": ("attention projections", "#a64d79"),
    "ncm": ("nearest class mean", "#e69138"),
    "slda": ("SLDA", "#6aa84f"),
    "ranpac": ("RanPAC", "#3d85c6"),
}


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return one row a configuration, means and deviations over seeds; times are shares of the same seed's full run."""
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/*/result.json")):
        content = read(path.parent)
        if content["status"] == "complete":
            runs.setdefault(path.parts[-3], {})[path.parts[-2]] = content
    table = []
    for name, seeds in runs.items():
        values: dict[str, list[float]] = {column: [] for column in COLUMNS}
        for seed, content in seeds.items():
            full, whole = content["full_finetuning"], runs["full"][seed]["full_finetuning"]
            values["average_accuracy"].append(content["metrics"]["average_accuracy"])
            values["forgetting"].append(content["metrics"]["forgetting"])
            values["seconds"].append(full["learning_seconds"])
            values["seconds_ratio"].append(full["learning_seconds"] / whole["learning_seconds"])
            values["flops_ratio"].append(full["learning_flops"] / whole["learning_flops"])
        row: dict[str, Any] = {"configuration": name, "seeds": len(seeds)}
        for column, found in values.items():
            row[column] = round(statistics.mean(found), 4)
            row[f"{column}_sd"] = round(statistics.stdev(found), 4) if len(found) > 1 else None
        table.append(row)
    return sorted(table, key=lambda row: row["seconds_ratio"])


def draw(table: list[dict[str, Any]]) -> Figure:
    """Return accuracy and forgetting against the share of full fine-tuning's seconds."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    for place, column in enumerate(("average_accuracy", "forgetting")):
        axes = figure.add_subplot(1, 2, place + 1)
        for prefix, (label, colour) in FAMILIES.items():
            own = [row for row in table if row["configuration"].startswith(prefix)]
            if not own:
                continue
            axes.errorbar(
                [r["seconds_ratio"] for r in own], [r[column] for r in own], [r[f"{column}_sd"] or 0 for r in own],
                fmt="o-" if len(own) > 1 else "o", color=colour, label=label, capsize=2, markersize=5, linewidth=1.2,
            )  # fmt: skip
            for row in own:
                text = row["configuration"].removeprefix(prefix).strip("_")
                axes.annotate(
                    text, (row["seconds_ratio"], row[column]), textcoords="offset points", xytext=(5, 5), fontsize=7
                )
        axes.axvline(0.6, color="#cc0000", linestyle=":", linewidth=1, label="the claim: 40 % less")
        axes.set_xlabel("training seconds / those of full fine-tuning")
        axes.set_ylabel(column.replace("_", " "))
        axes.set_xlim(0, 1.08)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    full = next(row for row in table if row["configuration"] == "full")["average_accuracy"]
    figure.axes[0].axhspan(full - 0.01, full + 0.01, color="#333333", alpha=0.12, linewidth=0)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", frameon=False, fontsize=8)
    return figure


def main() -> None:
    """Write the table and the figure into the paper's folder."""
    table, here = rows(Path(sys.argv[1])), Path(sys.argv[2])
    with (here / "results.csv").open("w", newline="") as f:
        lines = csv.DictWriter(f, table[0].keys())
        lines.writeheader()
        lines.writerows(table)
    draw(table).savefig(here / "curve.png", dpi=150)
    for row in table:
        print(
            f"{row['configuration']:16} " + "  ".join(f"{c} {row[c]:.3f} ± {row[c + '_sd'] or 0:.3f}" for c in COLUMNS)
        )


if __name__ == "__main__":
    main()
