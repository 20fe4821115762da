"""Selector: model, task and costs in, names of the parameters to thaw out; some change their mind within a task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from frostline.core.checks import in_range
from frostline.core.structure import everything
from frostline.core.tensors import tensor_bytes
from frostline.core.types import Task
from frostline.costs import TaskCosts


@dataclass(frozen=True)
class Change:
    """What trains from some step on: the thawed parameters, and how long this holds.

    rates: what the learning rate is multiplied by, by parameter name, 1 for names that are left out; empty where no
    rate is ever scaled. until: the step of the task at which the selector is asked again, None for the task's end.
    """

    names: frozenset[str]
    rates: Mapping[str, float] = field(default_factory=dict)
    until: int | None = None


@dataclass
class Selector:
    """Thaw everything for the first `warmup_tasks` tasks, then what `choose` says.

    A randomly initialised net has nothing worth freezing, which is what the warm-up is for. A rule that changes during
    a task also overrides `change`; one that must see gradients, `observe`; one that remembers anything, `state_dict`.
    """

    warmup_tasks: int = 0

    def __post_init__(self) -> None:
        in_range("selector.warmup_tasks", self.warmup_tasks, 0)

    def __call__(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        """Return the full names of the parameters to thaw when this task begins."""
        return self.warm_up(model) if task.index < self.warmup_tasks else self.choose(model, task, costs)

    def during(self, model: nn.Module, task: Task, names: frozenset[str], step: int, steps: int) -> Change:
        """Return what trains from `step` of the task's `steps` on; `names` were chosen when it began."""
        return Change(names) if task.index < self.warmup_tasks else self.change(model, task, names, step, steps)

    def warm_up(self, model: nn.Module) -> frozenset[str]:
        """Return what trains in the warm-up."""
        return everything(model)

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        """Return the choice after the warm-up."""
        return everything(model)

    def change(self, model: nn.Module, task: Task, names: frozenset[str], step: int, steps: int) -> Change:
        """Return the choice within a task after the warm-up: by default it stays."""
        return Change(names)

    def observe(self, grads: Mapping[str, Tensor]) -> None:
        """Look at the gradients of a step, by parameter name; called only where a rule overrides it."""

    def prepare(self, model: nn.Module) -> None:
        """Change the model before anything else happens to it, as adapters must."""

    def check(self, model: nn.Module, costs: TaskCosts) -> None:
        """Raise UsageError for a setting that does not fit the model; called before any training."""

    def stored_bytes(self) -> int:
        """Return the bytes that the rule itself keeps."""
        return tensor_bytes(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a kill, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""

    @property
    def observes(self) -> bool:
        """Whether the rule looks at gradients."""
        return type(self).observe is not Selector.observe
