"""Rules by depth: the whole net, the head, the last or the first blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from frostline.core.checks import UsageError, in_range
from frostline.core.structure import blocks, everything, head
from frostline.core.types import Task
from frostline.costs import TaskCosts
from frostline.selectors.base import Selector


@dataclass
class Everything(Selector):
    """Thaw every parameter: full retraining."""


@dataclass
class HeadOnly(Selector):
    """Thaw the classifier alone: the cheapest step there is."""

    def check(self, model: nn.Module, costs: TaskCosts) -> None:
        if not head(model):
            raise UsageError(
                "selector=head: the model's head shares its matrix with the embedding and has none of its own. Expected "
                "selector=embeddings, which trains both, or selector=last_k."
            )

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        return head(model)


@dataclass
class LastK(Selector):
    """Thaw the k deepest blocks and the head: the frozen prefix pays neither gradient.

    k: how many blocks; between 0 and 1, which share of them.
    """

    k: float = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("selector.k", self.k, 0, whole=self.k >= 1)

    def check(self, model: nn.Module, costs: TaskCosts) -> None:
        if self.k > len(blocks(model)):
            raise UsageError(
                f"selector.k={self.k}: the model has {len(blocks(model))} blocks beside the head. "
                f"{f'The nearest valid value is {len(blocks(model))}.' if blocks(model) else 'Expected selector=head.'}"
            )

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        return self.names(model)

    def names(self, model: nn.Module) -> frozenset[str]:
        """Return what thaws."""
        groups = blocks(model)
        return head(model).union(*groups[len(groups) - self.count(groups) :])

    def count(self, groups: Sequence[frozenset[str]]) -> int:
        """Return how many blocks k is; of a share at least one."""
        return int(self.k) if self.k >= 1 or not self.k else max(1, round(self.k * len(groups)))


@dataclass
class FirstK(LastK):
    """Thaw the k shallowest blocks and the head: for inputs that change while the task stays (Lee et al. 2023)."""

    def names(self, model: nn.Module) -> frozenset[str]:
        """Return what thaws."""
        groups = blocks(model)
        return head(model).union(*groups[: self.count(groups)])


@dataclass
class ExceptFirstK(LastK):
    """Thaw everything but the k shallowest blocks, parameters outside the blocks included."""

    def names(self, model: nn.Module) -> frozenset[str]:
        """Return what thaws."""
        groups = blocks(model)
        return everything(model).difference(*groups[: self.count(groups)])
