"""Signals that end a run: the first waits for a checkpoint at the next step, the second does not."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Ended(KeyboardInterrupt):
    """A signal ended the run; `signum` is its number."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Stop:
    """What the loop asks at each step: whether a signal came, 0 where none did."""

    def __init__(self) -> None:
        self.asked = 0
        self._stepping = 0

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Let a signal wait for the end of the step; outside, it ends the run at once."""
        self._stepping += 1
        try:
            yield
        finally:
            self._stepping -= 1

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM for the block, where this is the main thread of a process."""
        self.asked, before = 0, {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, self._come)
        except ValueError:  # another thread: signals are not ours to take
            pass
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _come(self, signum: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, signum
        if again or not self._stepping:
            raise Ended(signum)


STOP = Stop()
