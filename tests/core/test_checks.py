import math

import pytest

from frostline.core.checks import UsageError, in_range, nearest, one_of
from frostline.core.rng import derive, generator


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
