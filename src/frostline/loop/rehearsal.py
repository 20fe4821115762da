"""A rehearsal: of each kind of work the first few pieces are done, the others only counted, to know a run's bill before."""

import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from statistics import median

import torch

from frostline.costs import CostMeter

DONE = 4  # of each kind; the first warms up


class Rehearsal:
    """Says which pieces of work to do, and what a piece that is not done would have taken.

    Operations, steps and samples are those of the run as long as what a method does does not hang on what was learned;
    seconds are the medians of the pieces that were done, on this machine.
    """

    def __init__(self) -> None:
        self._seconds: dict[Hashable, list[float]] = {}

    @contextmanager
    def piece(self, kind: Hashable, meter: CostMeter) -> Iterator[bool]:
        """Tell whether to do a piece of this kind; what is done is timed, what is not is put on the open row."""
        taken = self._seconds.setdefault(kind, [])
        if len(taken) >= DONE:
            yield False
            meter.suppose(median(taken[1:]))
            return
        began = self._now(meter.device)
        yield True
        taken.append(self._now(meter.device) - began)

    @staticmethod
    def _now(device: torch.device) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()
