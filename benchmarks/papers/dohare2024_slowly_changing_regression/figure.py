"""Squared error in bins of 20,000 examples: a table of the first and the last, a figure of all, and a CSV, beside this file."""

import csv
import sys
from pathlib import Path

import numpy as np

from frostline.records import results

BIN = 20_000
PUBLISHED = {"relu_0.01": (0.62, 1.25), "relu_0.003": (0.71, 1.09), "linear_0.01": (0.88, 0.88)}
HERE = Path(__file__).parent


def curves(folder: Path) -> np.ndarray:
    """Return the mean squared error before each sample was learned from, [seeds, bins]."""
    runs = [results.read(file.parent) for file in sorted(folder.rglob("seed_*/result.json"))]
    per_bin = max(1, BIN // runs[0]["config"]["stream"]["samples_per_task"])
    losses = np.array([run["training_loss"] for run in runs], dtype=float)
    return losses.reshape(len(runs), -1, per_bin).mean(2)


def main(folder: Path) -> None:
    """Print a Markdown table and write results.csv and curves.png."""
    found = {path.name: curves(path) for path in sorted(folder.iterdir()) if any(path.rglob("seed_*/result.json"))}
    print("| | seeds | first bin | last bin | published |\n|---|---|---|---|---|")
    for name, of in found.items():
        error = of.std(0, ddof=1) / len(of) ** 0.5
        published = "{:.2f} to {:.2f}".format(*PUBLISHED[name]) if name in PUBLISHED else ""
        ends = " | ".join(f"{of[:, place].mean():.3f} ± {error[place]:.3f}" for place in (0, -1))
        print(f"| {name} | {len(of)} | {ends} | {published} |")
    with (HERE / "results.csv").open("w", newline="") as f:
        table = csv.writer(f, lineterminator="\n")
        table.writerow(["bin", *(f"{name}{part}" for name in found for part in ("", "_standard_error"))])
        for place in range(next(iter(found.values())).shape[1]):
            row = [(of[:, place].mean(), of[:, place].std(ddof=1) / len(of) ** 0.5) for of in found.values()]
            table.writerow([place, *(f"{value:.4f}" for pair in row for value in pair)])
    draw(found)


def draw(found: dict[str, np.ndarray]) -> None:
    """Draw mean curves with twice their standard error, the published ends as dots."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), constrained_layout=True)
    for name, of in found.items():
        mean, error = of.mean(0), of.std(0, ddof=1) / len(of) ** 0.5
        x = (np.arange(len(mean)) + 0.5) * BIN / 1000
        (line,) = axes.plot(x, mean, label=name.replace("_", " "))
        axes.fill_between(x, mean - 2 * error, mean + 2 * error, color=line.get_color(), alpha=0.2)
        if name in PUBLISHED:
            axes.plot(x[[0, -1]], PUBLISHED[name], "o", mfc="none", color=line.get_color())
    axes.set_xlabel("examples learned from, thousands")
    axes.set_ylabel("squared error before learning")
    axes.set_title("Slowly-changing regression; circles: read off the authors' figure")
    axes.legend(frameon=False)
    figure.savefig(HERE / "curves.png", dpi=130)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
