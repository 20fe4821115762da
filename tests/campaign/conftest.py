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
def said(capsys):
    """Return a function that prints a count past pytest's capture."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text} (seed {SEED})", flush=True)

    return say
