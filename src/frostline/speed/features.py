"""Test samples after the stages that learning no longer changes: an evaluation starts from there."""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from frostline.core.structure import is_staged, run_stages
from frostline.core.tensors import digest, tensor_bytes
from frostline.loop.evaluation import Column, Work, plainly, run_columns
from frostline.loop.run import Run
from frostline.speed.activations import frost_line

State = tuple[Tensor, ...]


class Features:
    """Activations of each column's test data, batch by batch, after the first `line` stages.

    At every evaluation the leading stages that did not train since the one before are compared with what they were then, by a
    digest of all that they hold. What they put out is kept; once one of them has changed, all is forgotten. So a row that
    comes from here is the row that the whole model would give. Stages that train are not looked at: a digest of all weights
    at every evaluation would take as long as a small evaluation does.
    """

    def __init__(self, room: int):
        self.room = room  # bytes
        self.line = 0
        self.held: dict[str, list[State]] = {}
        self._stages: list[str] = []
        self._frozen: int | None = None  # leading stages that stood still in all training since; None: there was none
        self._owed: list[str] = []  # held when the checkpoint was taken

    @property
    def nbytes(self) -> int:
        """Bytes of what is held."""
        return sum(map(tensor_bytes, self.held.values()))

    def look(self, model: nn.Module, steady: bool = True) -> None:
        """Find out which stages are as they were at the last evaluation, and forget what rests on one that is not.

        steady: whether such a stage puts out what it did then.
        """
        now: list[str] = []
        if is_staged(model) and self.room and steady:
            now = [digest(stage.state_dict()) for stage in model.stages()[: self._frozen]]
        same = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(now, self._stages, strict=False))))
        self._stages, self._frozen = now, None
        if same < self.line or not (self.held or self._owed):
            self.held.clear()
            self._owed.clear()
            weighted = is_staged(model) and any(any(True for _ in s.parameters()) for s in model.stages()[:same])
            self.line = same if weighted else 0

    def note(self, model: nn.Module) -> None:
        """Remember what stages that are frozen from here on hold, where the last look did not come as far."""
        if is_staged(model) and self.room:
            line = frost_line(model)
            self._frozen = line if self._frozen is None else min(line, self._frozen)
            self._stages += [digest(stage.state_dict()) for stage in model.stages()[len(self._stages) : line]]

    def pay(self, run: Run, moment: int | None) -> None:
        """Compute again what a kill took; the bill has it already."""
        owed, self._owed = self._owed, []
        for column in run_columns(run, moment) if owed else ():
            if column.key in owed:
                batches = column.source.batches(run.eval_batch_size)
                with run.strategy.serving(run.model, column.task):
                    self._keep(column.key, [self._before(run.model, batch.x) for batch in batches])

    def read(self, run: Run, column: Column) -> Iterator[Work]:
        """Yield the column's batches with what is left of the forward pass; all of it the first time."""
        if not self.line:
            yield from plainly(run, column)
            return
        held = self.held.get(column.key)
        states: list[State] = []
        for number, batch in enumerate(column.source.batches(run.eval_batch_size, samples=held is None)):
            if held is None:
                states.append(self._before(run.model, batch.x))
                yield Work(batch, partial(self._after, run.model, states[-1]), whole=partial(run.model, batch.x))
            else:
                yield Work(batch, partial(self._after, run.model, held[number]), kind=self.line)
        if held is None:
            self._keep(column.key, states)

    def _before(self, model: nn.Module, x: Tensor) -> State:
        assert is_staged(model)
        return run_stages(model, 0, self.line, x)

    def _after(self, model: nn.Module, state: State) -> Tensor:
        assert is_staged(model)
        after = run_stages(model, self.line, len(model.stages()), _plain(state))
        return model.head(_plain(after))

    def _keep(self, column: str, states: list[State]) -> None:
        """Hold the states of a column's data, if there is room."""
        if self.nbytes + tensor_bytes(states) <= self.room:
            self.held[column] = states

    def state_dict(self) -> dict[str, Any]:
        """Return what was held, without the activations: they are computed again."""
        held = [*self.held, *self._owed]
        return {"line": self.line, "stages": self._stages, "frozen": self._frozen, "held": held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.line, self._stages, self._owed = state["line"], list(state["stages"]), list(state["held"])
        self._frozen = state["frozen"]
        self.held.clear()


def _plain(state: State) -> Tensor | State:
    """Return the state as stages hand it on: a single tensor as itself."""
    return state if len(state) > 1 else next(iter(state))
