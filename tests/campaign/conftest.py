"""How often each thing is tried: few times by default, many times with `make campaign` (FROSTLINE_CAMPAIGN=1)."""

import os

import pytest

FULL = os.environ.get("FROSTLINE_CAMPAIGN") == "1"
SEED = int(os.environ.get("FROSTLINE_CAMPAIGN_SEED", "0"))


@pytest.fixture
def times():
    """Return a function from (few, all) to how often."""
    return lambda few, all_of_them: all_of_them if FULL else few


@pytest.fixture
def said(record_property):
    """Return a function that notes a count, which the last lines of pytest's output show, with workers (-n) too."""
    return lambda text: record_property("count", f"{text} (seed {SEED})")
