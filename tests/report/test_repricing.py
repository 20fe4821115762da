"""Price books say when and where their figures were read; runs are priced again by the formula, and called an estimate."""

from pathlib import Path

import pytest
import yaml

from frostline.core.checks import UsageError
from frostline.report.repricing import reprice
from tests.conftest import ROOT, in_process
from tests.report.test_page import content

BOOKS = ROOT / "conf" / "cost"


@pytest.mark.parametrize("book", sorted(p.stem for p in BOOKS.glob("*.yaml") if p.stem != "default"))
def test_every_book_names_its_day_and_its_source(book):
    own = yaml.safe_load((BOOKS / f"{book}.yaml").read_text())
    assert len(own["priced_on"]) == 10
    assert len(own["source"]) > 30
    assert own.get("price_per_hour") or own.get("electricity_price_per_kwh")
    assert 0 < own["carbon_g_per_kwh"] < 1000


def test_an_electricity_bill_is_watts_times_price():
    for book in ("laptop_cpu", "workstation_gpu"):
        own = yaml.safe_load((BOOKS / f"{book}.yaml").read_text())
        assert own["price_per_hour"] == pytest.approx(own["watts"] / 1000 * 0.2872 * 1.08, rel=0.005)


def test_runs_are_priced_again(tmp_path):
    (tmp_path / "default.yaml").write_text((BOOKS / "default.yaml").read_text())
    words = "price_per_hour: 3.6\nelectricity_price_per_kwh: 0.5\nwatts: 100\ncarbon_g_per_kwh: 400\npriced_on: '2026-01-01'"
    (tmp_path / "mine.yaml").write_text(f"{words}\nsource: a bill")
    run = content("finetune", flops=100.0) | {"environment": {"device_name": "a CPU"}}
    run["ledger"][0]["energy_joules"], run["ledger"][0]["energy_source"] = 3.6e6, "rapl"
    (made,), said = reprice([run], "mine", tmp_path)
    measured, assumed = made["ledger"][:2]
    assert measured["usd"] == pytest.approx(10 / 1000 + 0.5)
    assert (measured["co2e_kg"], measured["energy_source"]) == (pytest.approx(0.4), "rapl")
    assert assumed["energy_joules"] == pytest.approx(1000)
    assert assumed["usd"] == pytest.approx(0.01 + 1000 / 3.6e6 * 0.5)
    assert assumed["energy_source"] == "assumed"
    assert said == (
        "Repriced as mine: USD 3.6 an hour and 0.5 a kWh (2026-01-01; a bill). An estimate: the seconds are those of a CPU; "
        "energy as measured in 1 of 6 rows, else 100 W assumed."
    )
    assert run["ledger"][0]["usd"] is None
    with pytest.raises(UsageError, match=r"--reprice='min'.* Did you mean 'mine'"):
        reprice([run], "min", tmp_path)


def test_a_run_takes_a_book(tmp_path: Path):
    settings = (
        "tracking=none",
        "stream=split_digits",
        "model=mlp",
        "model.hidden=[32]",
        "trainer.epochs=1",
        "figures=[]",
    )
    assert in_process(*settings, "cost=aws_h100", f"hydra.run.dir={tmp_path / 'out'}") == (0, "")
    import json

    result = json.loads((tmp_path / "out" / "result.json").read_text())
    train = next(row for row in result["ledger"] if row["phase"] == "train")
    assert train["usd"] == pytest.approx(train["seconds"] / 3600 * 4.916)
    assert result["config"]["cost"]["priced_on"] == "2024-12-01"
