"""One line a run: accuracy, forgetting, and what learning cost; written beside this file."""

import csv
import sys
from pathlib import Path

from frostline.records import results

ORDER = ("ncm", "slda", "fecam", "ranpac", "last_k_replay", "lora", "full")


def main(folder: Path) -> None:
    """Print a Markdown table and write results_NAME.csv."""
    rows = []
    for name in ORDER:
        content = results.read(folder / name)
        learning = [row for row in content["ledger"] if row["phase"] in results.TRAINING_PHASES]
        metrics = content["metrics"]
        rows.append(
            [
                name, round(metrics["average_accuracy"], 3), round(metrics["forgetting"], 3),
                round(sum(row["flops"] for row in learning) / 1e12, 2), round(sum(row["seconds"] for row in learning), 1),
                round(max(row["stored_bytes"] for row in content["ledger"]) / 2**20, 1), content["environment"]["device_name"],
            ]
        )  # fmt: skip
    header = ["method", "accuracy", "forgetting", "tflops", "seconds", "stored_mib", "machine"]
    print(f"| {' | '.join(header[:-1])} |\n|{'---|' * (len(header) - 1)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row[:-1]))} |")
    with (Path(__file__).parent / f"results_{folder.name}.csv").open("w", newline="") as f:
        csv.writer(f).writerows([header, *rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
