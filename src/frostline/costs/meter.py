"""CostMeter: one ledger row per phase of a task.

Time is taken between device synchronisations where a phase begins and ends, and nowhere else; inside a phase the only
work per step is adding integers.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch

from frostline.core.checks import in_range, one_of
from frostline.costs.energy import EnergyMeter
from frostline.costs.flops import FlopCounter
from frostline.costs.memory import peak_memory, reset_peak_memory

PHASES = ("setup", "compile", "select", "train", "consolidate", "cache", "evaluate")
LEARNING = ("compile", "select", "train", "consolidate", "cache")  # what learning costs; evaluation is measuring
SUMMED = ("steps", "samples", "flops", "seconds", "energy_joules", "usd", "co2e_kg")
LARGEST = ("peak_memory_bytes", "stored_bytes", "trainable_parameters")
JOULES_PER_KWH = 3.6e6


@dataclass
class LedgerRow:
    """One phase of one task. Bytes are peaks, joules and money are None where nothing measures them."""

    task: int | None
    phase: str
    steps: int = 0
    samples: int = 0
    flops: int = 0
    seconds: float = 0.0
    energy_joules: float | None = None
    energy_source: str | None = None
    peak_memory_bytes: int = 0
    stored_bytes: int = 0
    trainable_parameters: int = 0
    usd: float | None = None
    co2e_kg: float | None = None


COLUMNS = tuple(f.name for f in fields(LedgerRow))


@dataclass(frozen=True)
class Prices:
    """What time and electricity cost: USD per hour of the machine, USD per kWh where energy is measured."""

    price_per_hour: float = 0.0
    electricity_price_per_kwh: float = 0.0

    def __post_init__(self) -> None:
        in_range("cost.price_per_hour", self.price_per_hour, 0)
        in_range("cost.electricity_price_per_kwh", self.electricity_price_per_kwh, 0)

    def usd(self, seconds: float, joules: float | None) -> float:
        """Return the money for `seconds` of the machine and, where known, its electricity."""
        return seconds / 3600 * self.price_per_hour + (joules or 0.0) / JOULES_PER_KWH * self.electricity_price_per_kwh


class CostMeter:
    """Fill the ledger.

        with meter.phase("train", task=0):
            ...
            meter.step(samples=128, flops=known)

    `row` is the open row. `paused()` takes a stretch out of the bill: probes and checkpoints are not the method's cost.
    """

    def __init__(
        self, device: torch.device | str = "cpu", prices: Prices | None = None, energy: EnergyMeter | None = None
    ):
        self.device = torch.device(device)
        self.prices = prices or Prices()
        self.energy = energy
        self.rows: list[LedgerRow] = []
        self.unbilled_seconds = 0.0
        self.uncounted: set[str] = set()  # operators that ran and have no formula for their operations
        self._open: LedgerRow | None = None
        self._among = 1
        self._paused = False
        self._clock = 0.0

    @property
    def row(self) -> LedgerRow:
        """The row that is open."""
        if self._open is None:
            raise RuntimeError("no phase is open: wrap the work in `with meter.phase(...)`")
        return self._open

    def step(self, samples: int, flops: int = 0, steps: int = 1) -> None:
        """Add one step to the open row, or several with what they took together."""
        row = self.row
        row.steps += steps
        row.samples += samples
        row.flops += flops

    def suppose(self, seconds: float) -> None:
        """Add seconds to the open row that were not spent: those of work that a rehearsal leaves out."""
        self.row.seconds += seconds / self._among

    @contextmanager
    def phase(self, name: str, task: int | None = None, *, count: bool = False, among: int = 1) -> Iterator[LedgerRow]:
        """Open the row (task, name), or go on with it where a checkpoint or another phase left it half done.

        count: let the flop counter itself watch the whole phase. For work that is done once a task; it costs some
        microseconds per operator, so the training loop is not counted like this. among: how many runs the machine works
        for in this phase, all at once; each is charged its share of the time.
        """
        one_of("phase", name, PHASES)
        if self._open is not None:
            raise RuntimeError(f"phase {name!r} cannot open inside phase {self._open.phase!r}")
        row = self.find(task, name)
        if row is None:
            row = LedgerRow(task, name)
            self.rows.append(row)
        self._open, self._among = row, among
        reset_peak_memory(self.device)
        self._start()
        try:
            if count:
                with FlopCounter() as counter:
                    yield row
                row.flops += counter.total
                self.uncounted |= counter.uncounted
            else:
                yield row
        finally:
            self._stop()
            self._open = None

    def find(self, task: int | None, name: str) -> LedgerRow | None:
        """Return the row of a phase of a task, None where it has none; those of a task stand together, the latest last."""
        for row in reversed(self.rows):
            if (row.task, row.phase) == (task, name):
                return row
            if task is not None and (row.task is None or row.task < task):
                return None
        return None

    def spent(self) -> tuple[int, int, float]:
        """Return the training steps, the operations and the seconds of learning so far."""
        steps, flops, seconds = 0, 0, 0.0
        for row in self.rows:
            if row.phase in LEARNING:
                steps += row.steps if row.phase == "train" else 0
                flops += row.flops
                seconds += row.seconds
        return steps, flops, seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep a stretch inside a phase off the bill."""
        if self._open is None or self._paused:
            yield
            return
        self._stop()
        self._paused = True
        begin, mark = time.perf_counter(), peak_memory(self.device)
        try:
            yield
        finally:
            self._synchronise()
            self.unbilled_seconds += (time.perf_counter() - begin) / self._among
            self._paused = False
            if peak_memory(self.device) > mark:  # what the pause took is not the method's
                reset_peak_memory(self.device)  # only then: what is given back must be asked for again, page by page
            self._start()

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _start(self) -> None:
        self._synchronise()
        if self.energy is not None:
            self.energy.start()
        self._clock = time.perf_counter()

    def _stop(self) -> None:
        self._synchronise()
        seconds = (time.perf_counter() - self._clock) / self._among
        row = self.row
        row.seconds += seconds
        row.peak_memory_bytes = max(row.peak_memory_bytes, peak_memory(self.device))
        if self.energy is not None:
            joules, carbon = self.energy.stop()
            row.energy_joules = (row.energy_joules or 0.0) + joules / self._among
            row.co2e_kg = (row.co2e_kg or 0.0) + carbon / self._among
            row.energy_source = self.energy.source
        row.usd = self.prices.usd(row.seconds, row.energy_joules)

    def state_dict(self) -> dict[str, Any]:
        """Return the ledger as plain values."""
        return {
            "rows": [dict(vars(row)) for row in self.rows],
            "unbilled_seconds": self.unbilled_seconds,
            "uncounted": sorted(self.uncounted),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the ledger; a row that was open goes on when its phase opens again."""
        self.rows = [LedgerRow(**row) for row in state["rows"]]
        self.unbilled_seconds = state["unbilled_seconds"]
        self.uncounted = set(state["uncounted"])


@contextmanager
def all_paused(meters: Iterable[CostMeter]) -> Iterator[None]:
    """Keep a stretch off the bills of all runs that share the machine."""
    with ExitStack() as pauses:
        for meter in meters:
            pauses.enter_context(meter.paused())
        yield


def totals(rows: list[LedgerRow]) -> dict[str, float | None]:
    """Return the sum of what adds up and the maximum of what does not (bytes, parameters)."""
    result: dict[str, float | None] = {}
    for name in SUMMED:
        values = [getattr(row, name) for row in rows if getattr(row, name) is not None]
        result[name] = sum(values) if values else None
    for name in LARGEST:
        result[name] = max((getattr(row, name) for row in rows), default=0)
    return result
