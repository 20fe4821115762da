import dataclasses
import math
import re

import pytest

from frostline.app.config import conf_dir
from frostline.core.checks import SYNONYMS, UsageError, in_range, nearest, one_of
from frostline.core.rng import derive, generator
from frostline.loop.settings import TrainerConfig
from frostline.models.quantised import KINDS


def test_messages_name_value_expectation_and_nearest():
    with pytest.raises(UsageError, match=r"buffer='rnig': expected one of ring, reservoir\. Did you mean 'ring'\?"):
        one_of("buffer", "rnig", ["ring", "reservoir"])
    with pytest.raises(UsageError, match=r"k=-2: expected a finite number >= 0\. The nearest valid value is 0\."):
        in_range("k", -2, 0)
    with pytest.raises(UsageError, match=r"share=1\.5: .* <= 1\. The nearest valid value is 1\."):
        in_range("share", 1.5, 0, 1)
    assert nearest("zzz", ["ring"]) == ""
    assert nearest("ON", ["auto", "on", "off"]) == " Did you mean 'on'?"
    assert nearest("replya", ["Replay"]) == " Did you mean 'Replay'?"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "3", True, -1, 0])
def test_what_is_no_positive_number(value):
    with pytest.raises(UsageError):
        in_range("x", value, 0, above=True)


def test_none_means_not_set():
    in_range("x", None, 0)


def test_seeds_depend_on_every_key():
    seeds = {derive(*keys) for keys in [(0,), (1,), (0, "order"), (0, "order", 1), (0, "order", 2), (0, "fisher", 1)]}
    assert len(seeds) == 6
    assert generator(3, "a").initial_seed() == generator(3, "a").initial_seed() == derive(3, "a")


def test_every_word_of_another_framework_leads_to_one_name_that_there_is():
    known = {path.stem for path in conf_dir().glob("*/*.yaml")} | {f.name for f in dataclasses.fields(TrainerConfig)}
    settings = {
        key for path in conf_dir().glob("*/*.yaml") for key in re.findall(r"^ *([a-z_]+):", path.read_text(), re.M)
    }
    known |= {path.stem for path in conf_dir().iterdir()} | set(KINDS)
    words = [word for others in SYNONYMS.values() for word in others]
    assert set(SYNONYMS) <= known | settings
    for name, others in SYNONYMS.items():
        for word in others:
            assert nearest(word, [name, "something_else"]) == f" Did you mean '{name}'?"
    strategies = {path.stem for path in (conf_dir() / "strategy").glob("*.yaml")}
    own = [word for name, others in SYNONYMS.items() if name in strategies for word in others]
    assert len(own) == len(set(own))  # of one strategy each
    assert not strategies & set(own)
    assert words
