"""What runs that exist would cost by another price book: conf/cost/NAME.yaml."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from frostline.core.checks import one_of
from frostline.costs.meter import JOULES_PER_KWH, Prices

CHANGED = ("price_per_hour", "electricity_price_per_kwh", "watts", "carbon_g_per_kwh", "priced_on", "source")


def reprice(runs: Sequence[dict[str, Any]], name: str, books: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the runs at the prices of books/NAME.yaml, and in words what the figures rest on.

    Energy stays what it was where it was measured; else it is the book's watts times the seconds. Seconds are those of the
    machine that ran: on another one they would be others, so money is an estimate.
    """
    known = sorted(path.stem for path in books.glob("*.yaml") if path.stem != "default")
    one_of("--reprice", name, known)
    own = yaml.safe_load((books / f"{name}.yaml").read_text(encoding="utf-8"))
    default = yaml.safe_load((books / "default.yaml").read_text(encoding="utf-8"))
    book = {key: own.get(key, default[key]) for key in CHANGED}
    made = [{**run, "ledger": [_priced(row, book) for row in run["ledger"]]} for run in runs]
    return made, _words(name, book, runs)


def _priced(row: dict[str, Any], book: dict[str, Any]) -> dict[str, Any]:
    joules, source = row.get("energy_joules"), row.get("energy_source")
    if joules is None and book["watts"]:
        joules, source = book["watts"] * row["seconds"], "assumed"
    usd = Prices(book["price_per_hour"], book["electricity_price_per_kwh"]).usd(row["seconds"], joules)
    carbon = row.get("co2e_kg")
    if joules is not None and book["carbon_g_per_kwh"] is not None:
        carbon = joules / JOULES_PER_KWH * book["carbon_g_per_kwh"] / 1000
    return {**row, "energy_joules": joules, "energy_source": source, "usd": usd, "co2e_kg": carbon}


def _words(name: str, book: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    devices = sorted({run.get("environment", {}).get("device_name") or "an unknown device" for run in runs})
    rows = [row for run in runs for row in run["ledger"] if row["seconds"]]
    measured = sum(row.get("energy_joules") is not None for row in rows)
    energy = f"energy as measured in {measured} of {len(rows)} rows"
    if measured < len(rows):
        energy += f", else {book['watts']:g} W assumed" if book["watts"] else ", else unknown"
    return (
        f"Repriced as {name}: USD {book['price_per_hour']:g} an hour and {book['electricity_price_per_kwh']:g} a kWh "
        f"({book['priced_on']}; {book['source']}). An estimate: the seconds are those of {', '.join(devices)}; {energy}."
    )
