"""The table of strategies says what the code says."""

from frostline.app.strategy_table import FAMILIES, as_markdown, strategy_rows
from tests.conftest import ROOT


def test_the_documentation_has_the_table_that_the_code_makes():
    """Where this fails: frostline list strategies --markdown, into docs/strategies.md."""
    assert as_markdown() in (ROOT / "docs" / "strategies.md").read_text("utf-8")


def test_every_strategy_is_in_it_once():
    rows = {row.name: row for row in strategy_rows()}
    assert set(rows) == {path.stem for path in (ROOT / "conf" / "strategy").glob("*.yaml")}
    assert {row.family for row in rows.values()} == set(FAMILIES)
    assert rows["gem"].paper == "1706.08840"
    assert rows["si"].stores.startswith("two numbers a weight")
    assert all(row.what.endswith(".") for row in rows.values())


def test_a_wrong_word_is_named(cli, tmp_path):
    done = cli(tmp_path, "list", "strategy", program="frostline")
    assert done.returncode == 1
    assert "strategies" in done.stderr
    done = cli(tmp_path, "list", "strategies", program="frostline")
    assert "1706.08840" in done.stdout
