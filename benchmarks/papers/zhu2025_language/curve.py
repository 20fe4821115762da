"""Each recipe beside full fine-tuning's own curve over the rate: python benchmarks/papers/zhu2025_language/curve.py RUNS

`of the curve`: what is forgotten of the held-out domains, in nats a token, as a share of what full fine-tuning of the same seed
forgets where it has learned as much (straight lines between its rates, and from nothing learned and nothing forgotten). Below 1
a recipe lies outside that curve, on the good side. Means over seeds; where there are several, with Student's 95 % interval.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from frostline.report.groups import value_of

RATES = {"low": "1e-4", "mid": "3e-4", "high": "1e-3"}
LEARNING = ("train", "select", "consolidate", "cache")


def read(runs: Path) -> dict[tuple[str, str], dict[int, np.ndarray]]:
    """Return learned, forgetting, held-out change in accuracy and in nats, and TFLOPs of each recipe, rate and seed."""
    rows: dict[tuple[str, str], dict[int, np.ndarray]] = defaultdict(dict)
    for path in sorted(runs.glob("*/seed_*/result.json")):
        content = json.loads(path.read_text("utf-8"))
        if content["status"] != "complete":
            continue
        losses = [suite["loss"] for suite in content["held_out"].values()]
        flops = sum(row["flops"] for row in content["ledger"] if row["phase"] in LEARNING)
        values = [value_of(content, name) or 0.0 for name in ("learned", "forgetting", "held_out_change")]
        recipe, rate = path.parts[-3].rsplit("_", 1)
        rows[recipe, rate][content["seed"]] = np.array([*values, np.mean([x[-1] - x[0] for x in losses]), flops / 1e12])
    return rows


def main(runs: Path) -> None:
    """Print the table."""
    rows = read(runs)
    order = sorted(rows, key=lambda key: (key[0] != "full", key[0], list(RATES).index(key[1])))
    for recipe, rate in order:
        seeds = rows[recipe, rate]
        shares = []
        for seed, values in seeds.items():
            own = [rows["full", r].get(seed, rows["full", r][0]) for r in RATES]
            curve = np.interp(values[0], [0, *(v[0] for v in own)], [0, *(v[3] for v in own)])
            shares.append(values[3] / curve)
        share = f"{np.mean(shares):.2f}"
        if len(shares) > 1 and recipe != "full":
            low, high = stats.t.interval(0.95, len(shares) - 1, np.mean(shares), stats.sem(shares))
            share += f" ({low:.2f} to {high:.2f})"
        gain, lost, held, nats, flops = np.mean(list(seeds.values()), axis=0)
        figures = f"{gain:.3f} | {lost:.3f} | {held:+.3f} | {nats:+.2f} | {share} | {flops:.2f} | {len(seeds)}"
        print(f"| {recipe.replace('_', ' ')} | {RATES[rate]} | {figures} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
