"""Test samples after the stages that learning no longer changes: an evaluation starts from there."""

import itertools
from typing import Any

from torch import Tensor, nn

from frostline.memory import digest, tensor_bytes
from frostline.scope import Staged, run_stages

State = tuple[Tensor, ...]


class Features:
    """Activations of each task's test data, batch by batch, after the first `line` stages.

    At every evaluation each stage is compared, by a digest of all that it holds, with what it was at the one before.
    What the leading unchanged stages put out is kept; once one of them has changed, all is forgotten. So a row that comes
    from here is the row that the whole model would give.
    """

    def __init__(self, room: int):
        self.room = room  # bytes
        self.line = 0
        self.held: dict[int, list[State]] = {}
        self._stages: list[str] = []
        self._owed: list[int] = []  # held when the checkpoint was taken

    @property
    def nbytes(self) -> int:
        """Bytes of what is held."""
        return sum(map(tensor_bytes, self.held.values()))

    def look(self, model: nn.Module) -> None:
        """Find out which stages are as they were at the last evaluation, and forget what rests on one that is not."""
        now = (
            [digest(stage.state_dict()) for stage in model.stages()] if isinstance(model, Staged) and self.room else []
        )
        same = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(now, self._stages, strict=False))))
        self._stages = now
        if same < self.line or not (self.held or self._owed):
            self.held.clear()
            self._owed.clear()
            weighted = isinstance(model, Staged) and any(
                any(True for _ in s.parameters()) for s in model.stages()[:same]
            )
            self.line = same if weighted else 0

    def take_owed(self) -> list[int]:
        """Return the tasks whose activations a kill took, once."""
        owed, self._owed = self._owed, []
        return owed

    def before(self, model: nn.Module, x: Tensor) -> State:
        """Return what the unchanged stages make of x."""
        assert isinstance(model, Staged)
        return run_stages(model, 0, self.line, x)

    def logits(self, model: nn.Module, state: State, visible: Tensor | None) -> Tensor:
        """Return what the other stages and the head make of it."""
        assert isinstance(model, Staged)
        after = run_stages(model, self.line, len(model.stages()), _plain(state))
        return model.head(_plain(after), visible)

    def keep(self, task: int, states: list[State]) -> None:
        """Hold the states of a task's test data, if there is room."""
        if self.nbytes + tensor_bytes(states) <= self.room:
            self.held[task] = states

    def state_dict(self) -> dict[str, Any]:
        """Return what was held, without the activations: they are computed again."""
        return {"line": self.line, "stages": self._stages, "held": [*self.held, *self._owed]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.line, self._stages, self._owed = state["line"], list(state["stages"]), list(state["held"])
        self.held.clear()


def _plain(state: State) -> Tensor | State:
    """Return the state as stages hand it on: a single tensor as itself."""
    return state if len(state) > 1 else next(iter(state))
