"""Put speeches into a table: a row a passage, with its year and the speaker's party. Files are called YEAR_NAME_PARTY.txt."""

import csv
import sys
from pathlib import Path

WORDS, EVERY = 60, 4  # of a passage, and one of so many is taken
PARTIES = {"r": "Republican", "d": "Democratic"}


def main(folder: Path, table: Path) -> None:
    rows = []
    for file in sorted(folder.glob("*.txt")):
        year, *_, party = file.stem.split("_")
        if party in PARTIES and int(year) >= 1857:  # since when there are both
            words = file.read_text(encoding="utf-8", errors="replace").split()
            for start in range(0, len(words) - WORDS + 1, EVERY * WORDS):
                text = " ".join(words[start : start + WORDS])
                rows.append({"text": text, "party": PARTIES[party], "year": int(year)})
    if not rows:
        raise SystemExit(f"{folder}: no file called YEAR_NAME_r.txt or YEAR_NAME_d.txt.")
    with table.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{table}: {len(rows)} passages, {rows[0]['year']} to {rows[-1]['year']}")


main(Path(sys.argv[1]), Path(sys.argv[2]))
