"""Refuse bad values with one clear message: the value, what was expected, the nearest valid choice."""

import difflib
import math
from collections.abc import Iterable


class UsageError(ValueError):
    """Something the user asked for cannot be done; the message says what would work."""


def nearest(value: object, choices: Iterable[str]) -> str:
    """Return ' Did you mean X?' for the closest of `choices`, or an empty string when nothing is close."""
    small = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(str(value).lower(), small, n=1, cutoff=0.5)
    return f" Did you mean '{small[close[0]]}'?" if close else ""


def one_of(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise UsageError unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise UsageError(f"{name}={value!r}: expected one of {', '.join(choices)}.{nearest(value, choices)}")


def in_range(
    name: str, value: float | None, low: float = -math.inf, high: float = math.inf, *, above: bool = False
) -> None:
    """Raise UsageError unless low <= value <= high (low < value with `above`); None and NaN are told apart."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name}={value!r}: expected a number.")
    if math.isfinite(value) and (low < value if above else low <= value) and value <= high:
        return
    sign = ">" if above else ">="
    upper = f" and <= {high:g}" if math.isfinite(high) else ""
    hint = f" The nearest valid value is {high:g}." if value > high else ""
    if math.isfinite(value) and value < low and not above:
        hint = f" The nearest valid value is {low:g}."
    raise UsageError(f"{name}={value}: expected a finite number {sign} {low:g}{upper}.{hint}")
