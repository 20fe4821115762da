"""The ten seeds of each scenario beside what Hsu et al. 2018 published; exit code 1 where a mean is out of its band."""

import csv
import statistics
import sys
from pathlib import Path

from frostline.records import results

PUBLISHED = {"task": (93.46, 2.01), "domain": (55.16, 1.38), "class": (19.71, 0.08)}  # plain Adam: mean, deviation


def main(folder: Path) -> int:
    """Print the table, write it beside this file, and say whether every mean lies within two published deviations."""
    rows, outside = [], 0
    for scenario, (mean, deviation) in PUBLISHED.items():
        contents = [results.read(path.parent) for path in sorted((folder / scenario).glob("seed_*/result.json"))]
        found = [100 * content["metrics"]["average_accuracy"] for content in contents]
        ours, spread = statistics.mean(found), statistics.stdev(found)
        inside = abs(ours - mean) <= 2 * deviation
        outside += not inside
        rows.append(
            [scenario, mean, deviation, round(ours, 2), round(spread, 2), len(found), "yes" if inside else "no"]
        )
        print(
            f"{scenario:7} published {mean:.2f} +- {deviation:.2f}   here {ours:.2f} +- {spread:.2f}   {rows[-1][-1]}"
        )
    with (Path(__file__).parent / "results.csv").open("w", newline="") as f:
        table = csv.writer(f)
        table.writerow(
            ["scenario", "published", "deviation", "here", "here_deviation", "seeds", "within_two_deviations"]
        )
        table.writerows(rows)
    return outside


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
