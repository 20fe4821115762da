"""The five seeds of each net beside what GDumb's authors published; exit code 1 where a mean is more than a point away."""

import csv
import statistics
import sys
from pathlib import Path

from frostline.records import results

PUBLISHED = {"500_100": (90.2, 0.4), "4400_400": (97.8, 0.1)}  # samples and width: mean, deviation


def main(folder: Path) -> int:
    """Print the table, write it beside this file, and say whether every mean lies within a point."""
    rows, outside = [], 0
    for name, (mean, deviation) in PUBLISHED.items():
        contents = [results.read(path.parent) for path in sorted((folder / name).glob("seed_*/result.json"))]
        found = [100 * content["metrics"]["average_accuracy"] for content in contents]
        seconds = statistics.mean(content["totals"]["seconds"] for content in contents)
        ours, spread = statistics.mean(found), statistics.stdev(found)
        inside = abs(ours - mean) <= 1
        outside += not inside
        samples, width = name.split("_")
        rows.append(
            [samples, width, mean, deviation, round(ours, 2), round(spread, 2), len(found), round(seconds), inside]
        )
        print(f"{name:9} published {mean:.1f} +- {deviation:.1f}   here {ours:.2f} +- {spread:.2f}")
    with (Path(__file__).parent / "results.csv").open("w", newline="") as f:
        table = csv.writer(f)
        table.writerow(
            [
                "samples",
                "width",
                "published",
                "deviation",
                "here",
                "here_deviation",
                "seeds",
                "seconds_a_seed",
                "within_a_point",
            ]
        )
        table.writerows(rows)
    return outside


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
