"""Each recipe beside full fine-tuning's own curve over the rate: python benchmarks/papers/zhu2025_language/curve.py RUNS

`on the curve` is what full fine-tuning forgets of the held-out domains, in nats a token, where it has learned as much; straight
lines between its rates, and from nothing learned and nothing forgotten.
"""

import json
import sys
from pathlib import Path

import numpy as np

from frostline.report.groups import value_of

RATES = {"low": "1e-4", "mid": "3e-4", "high": "1e-3"}
LEARNING = ("train", "select", "consolidate", "cache")


def main(runs: Path) -> None:
    """Print the table."""
    rows = {}
    for path in sorted(runs.glob("*/seed_0/result.json")):
        content = json.loads(path.read_text("utf-8"))
        if content["status"] == "complete":
            losses = [suite["loss"] for suite in content["held_out"].values()]
            flops = sum(row["flops"] for row in content["ledger"] if row["phase"] in LEARNING)
            values = [value_of(content, name) or 0.0 for name in ("learned", "forgetting", "held_out_change")]
            rows[tuple(path.parts[-3].rsplit("_", 1))] = (
                *values,
                np.mean([x[-1] - x[0] for x in losses]),
                flops / 1e12,
            )
    own = [(0.0, 0.0), *((rows["full", rate][0], rows["full", rate][3]) for rate in RATES)]
    learned, forgotten = zip(*own, strict=True)
    for (name, rate), (gain, lost, held, nats, flops) in sorted(
        rows.items(), key=lambda row: (row[0][0] != "full", row[0][0], list(RATES).index(row[0][1]))
    ):
        curve = np.interp(gain, learned, forgotten)
        figures = f"{gain:.3f} | {lost:.3f} | {held:+.3f} | {nats:+.2f} | {curve:.2f} | {flops:.2f}"
        print(f"| {name.replace('_', ' ')} | {RATES[rate]} | {figures} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
