"""In what order the values of a column come: numbers by size, words with numbers in them, times however they are written."""

import calendar
import re
import warnings
from typing import Any

from frostline.core.checks import UsageError

DATE = re.compile(
    r"\s*(?P<first>\d{1,2})(?P<sign>[/.-])(?P<second>\d{1,2})(?P=sign)(?P<year>\d{4}|\d{2})(?!\d)(?P<rest>.*)"
)
SEASONS = ("winter", "spring", "summer", "autumn", "fall")
MONTHS = [name.lower() for names in (calendar.month_abbr, calendar.month_name) for name in names if name]
MONTH = "|".join(MONTHS)
PART = rf"(?:[a-z]{{1,7}}\s?)?\d{{1,2}}|{MONTH}|{'|'.join(SEASONS)}"  # Q4, week 9, 12, Mar
YEAR = r"(?:19|20)\d{2}|\d{2}"
LAST_YEAR = re.compile(rf"\s*(?P<part>{PART})\.?\s*[ /'-]\s*(?P<year>{YEAR})\s*", re.IGNORECASE)
CLOCK = re.compile(
    r"[\sT,]*(?P<hour>\d{1,2})(?::(?P<minute>\d{2}))?(?::(?P<second>\d{2}(?:\.\d+)?))?\s*(?P<half>[ap]\.?m\.?)?\s*",
    re.IGNORECASE,
)
# What says a year, a month and a day, so that a library that guesses has nothing to guess.
WHOLE = re.compile(rf"\s*((?:19|20)\d{{2}}[-/.]\d{{1,2}}|(?=.*(?:19|20)\d{{2}}).*\b({MONTH})\b)", re.IGNORECASE)


def natural(value: Any) -> Any:
    """Sort numbers by size, and words with the numbers in them by size: 2 before 10."""
    if isinstance(value, str):
        return (1, [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", value) if p])
    return (0, value)


def in_order(column: Any) -> list[Any]:
    """Return something to sort each of a column's values by: months and weekdays by the calendar, times by time.

    A date is taken as 2024-03-31, 31 Mar 2024 and the like, or as 31.3.2024, 3/31/2024 where only one reading fits all of
    them; a year may stand last (Q4 2020, 12/2020, spring 2020, Mar-24), a time of day after a date or alone, and be am or pm;
    times with an offset come in the order in which they were. Two digits of a year are 1970 to 2069. UsageError where most are
    times and some are none, or numbers stand among words: their place would be anybody's guess.
    """
    values = column.tolist()
    words = {v for v in values if isinstance(v, str)}
    if not words:
        return [natural(v) for v in values]
    if len(words) < len(set(values)):
        number = next(v for v in values if not isinstance(v, str))
        raise UsageError(
            f"Column {column.name!r} holds both numbers ({number!r}) and words ({min(words)!r}): expected one kind, whose "
            "order is known."
        )
    for names in (calendar.month_name, calendar.month_abbr, calendar.day_name, calendar.day_abbr):
        place = {name.lower(): i for i, name in enumerate(names) if name}
        if all(w.strip().lower() in place for w in words):
            return [place[v.strip().lower()] for v in values]
    odd = values
    for kind in (_dates, _last_years, _clocks, _whole):
        keys = kind(column, values)
        if None not in keys:
            return keys
        odd = min(odd, [v for v, key in zip(values, keys, strict=True) if key is None], key=len)
    if len(odd) < len(values) / 2:
        fine = next(v for v in values if v not in odd)
        raise UsageError(
            f"Column {column.name!r}: {odd[0]!r} is no time, as {fine!r} and others are, or none written like them "
            f"({len(odd)} such rows). Expected times of one kind."
        )
    return [natural(v) for v in values]


def _dates(column: Any, values: list[str]) -> list[Any]:
    """Return year, month, day and time of day of each date of three numbers, the year last."""
    dates = {v: match for v in values if (match := DATE.match(v))}
    if len(dates) < len(set(values)):  # 1.2.10 among others may be a version
        return [
            (0,) if v in dates and (dates[v]["sign"] != "." or len(dates[v]["year"]) == 4) else None for v in values
        ]
    readings, shown = [], f"Column {column.name!r}: {column.iloc[0]!r}"
    for value, match in dates.items():
        if match["rest"].strip() and _clock(match["rest"]) is None:
            raise UsageError(f"Column {column.name!r}: what follows the date in {value!r} is no time of day.")
    for day, month in (("first", "second"), ("second", "first")):
        keys = {v: (_year(d["year"]), int(d[month]), int(d[day]), _clock(d["rest"]) or 0.0) for v, d in dates.items()}
        if all(1 <= m <= 12 and 1 <= d <= calendar.monthrange(y, m)[1] for y, m, d, _ in keys.values()):
            readings.append(keys)
    if not readings:
        raise UsageError(f"{shown} is no date. Expected dates such as 2024-03-31.")
    if sorted(dates, key=readings[0].__getitem__) != sorted(dates, key=readings[-1].__getitem__):
        raise UsageError(f"{shown} may be day and month or month and day. Expected dates such as 2024-03-31.")
    return [readings[0][v] for v in values]


def _year(digits: str) -> int:
    return int(digits) if len(digits) == 4 else 2000 + int(digits) - 100 * (int(digits) > 69)


def _last_years(column: Any, values: list[str]) -> list[Any]:
    """Return year and part of the year of each: Q4 2020, 12/2020, spring 2020, Mar-24."""

    def key(value: str) -> Any:
        match = LAST_YEAR.fullmatch(value)
        if match is None or (len(match["year"]) == 2 and match["part"].lower() not in MONTHS):
            return None
        part = match["part"].lower()
        for names in (calendar.month_name, calendar.month_abbr, SEASONS):
            if part in (lowered := [name.lower() for name in names]):
                return (_year(match["year"]), lowered.index(part))
        return (_year(match["year"]), int(re.sub(r"\D", "", part)))

    return [key(v) for v in values]


def _clocks(column: Any, values: list[str]) -> list[Any]:
    """Return the second of the day of each time of day."""
    return [_clock(v) if ":" in v or v.strip().lower().endswith(("m", "m.")) else None for v in values]


def _clock(text: str) -> float | None:
    match = CLOCK.fullmatch(text)
    if match is None or int(match["hour"]) > 24:
        return None
    hour = int(match["hour"])
    if match["half"]:
        hour = hour % 12 + 12 * (match["half"][0].lower() == "p")
    return 3600.0 * hour + 60 * int(match["minute"] or 0) + float(match["second"] or 0)


def _whole(column: Any, values: list[str]) -> list[Any]:
    """Return the moment of each time that says its year and its month plainly, as pandas reads it."""
    import pandas

    plain = {v for v in values if WHOLE.match(v)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read: Any = pandas.to_datetime(pandas.Series(sorted(plain)), format="mixed", errors="coerce", utc=True)
    keys = dict(zip(sorted(plain), read, strict=True))
    return [None if keys.get(v) is None or keys[v] is pandas.NaT else keys[v] for v in values]
