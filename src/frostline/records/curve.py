"""The learning curve: loss, rate, gradient norm and what learning has cost, about twice a second and where a task ends."""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from frostline.loop.run import Moment, Observer, Run

NAME = "curve.csv"
COLUMNS = ("task", "part", "epoch", "step", "steps_taken", "loss", "rate", "gradient_norm", "flops", "seconds")

FRACTIONS = ("loss", "rate", "gradient_norm", "seconds")


class Curve(Observer):
    """Keep the curve, and write it to folder/curve.csv as it goes on, where there is a folder.

    A resumed run goes on with the lines up to its checkpoint; a line that a kill cut short, or that is damaged, is left out.
    """

    def __init__(self, folder: Path | None = None):
        self.path = None if folder is None else folder / NAME
        self.rows: list[dict[str, Any]] = []

    def started(self, run: Run) -> None:
        """Take up what was written before this moment of the run."""
        if self.path is None:
            return
        taken = sum(row.steps for row in run.meter.rows if row.phase == "train")
        self.rows = [row for row in read(self.path) if row["steps_taken"] <= taken]
        with self.path.open("w", newline="", encoding="utf-8") as f:
            table = csv.writer(f)
            table.writerow(COLUMNS)
            table.writerows([row[key] for key in COLUMNS] for row in self.rows)

    def progress(self, run: Run, moment: Moment) -> None:
        """Add a row."""
        row = {key: value for key, value in asdict(moment).items() if key in COLUMNS}
        self.rows.append(row)
        if self.path is not None:
            with self.path.open("a", newline="", encoding="utf-8") as f:
                csv.writer(f).writerow([row[key] for key in COLUMNS])


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a curve; none where there is no file."""
    if not path.is_file():
        return []
    found = []
    with path.open(newline="", encoding="utf-8", errors="replace") as f:
        for line in csv.DictReader(f):
            try:
                found.append({key: float(line[key]) if key in FRACTIONS else int(line[key]) for key in COLUMNS})
            except (KeyError, TypeError, ValueError):
                continue  # cut short, or damaged
    return found
