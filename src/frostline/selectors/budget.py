"""The most valuable layers that a budget of operations allows: solved exactly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.rng import generator
from frostline.core.structure import head, layers
from frostline.core.types import Task
from frostline.costs import StepCosts, TaskCosts
from frostline.selectors.base import Selector
from frostline.selectors.program import Program
from frostline.selectors.scores import fisher, rgn, spectrum

VALUES = ("fisher", "rgn", "spectrum", "uniform", "random")


@dataclass
class Budget(Selector):
    """Maximise the sum of the thawed layers' values subject to C_step <= fraction * C_full; the head always thaws.

    value: 'fisher', the squared per-example gradient summed over the layer: to first order what a gradient step on that
    layer alone takes off the loss; 'rgn' and 'spectrum', the scores of those rules; 'uniform', every layer 1; 'random', for
    comparison. cache_aware: price the frozen prefix at the share of the steps that the prefix cache will compute. Layers are
    the parameters of one module. The costs are those of costs.StepCosts, exact for the traced step; the answer is a
    small mixed-integer program's, solved to optimality by scipy (HiGHS).
    """

    fraction: float = 0.5
    value: str = "fisher"
    cache_aware: bool = False
    samples: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("selector.fraction", self.fraction, 0, 1, above=True)
        in_range("selector.samples", self.samples, 1)
        one_of("selector.value", self.value, VALUES)

    def check(self, model: nn.Module, costs: TaskCosts) -> None:
        if self.cache_aware and not costs.step.stages:
            raise UsageError(f"selector.cache_aware=true: {type(model).__name__} has no stages() to cache at.")
        if self.cache_aware and costs.reuse >= 1.0:
            raise UsageError(
                "selector.cache_aware=true counts on activations being reused, but trainer.prefix_cache=off, trainer.epochs=1 "
                "or a strategy that changes samples rules that out. Expected trainer.prefix_cache=auto and several epochs."
            )
        least = self._price(head(model), costs) / costs.step.full
        if least > self.fraction:
            raise UsageError(
                f"selector.fraction={self.fraction}: training the head alone takes {least:.4f} of a full step's operations. "
                f"The smallest feasible fraction is {math.ceil(least * 1e4) / 1e4}."
            )

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        self.check(model, costs)
        groups = {name: own for name, own in layers(model).items() if not head(model) >= set(own)}
        values = self._values(model, task, costs, groups)
        reuse = costs.reuse if self.cache_aware else 1.0
        taken = solve(costs.step, list(groups.values()), values, head(model), self.fraction, reuse)
        return head(model).union(*(own for own, t in zip(groups.values(), taken, strict=True) if t))

    def _price(self, names: frozenset[str], costs: TaskCosts) -> float:
        return costs.step.cached(names, costs.reuse) if self.cache_aware else costs.step(names)

    def _values(
        self, model: nn.Module, task: Task, costs: TaskCosts, groups: dict[str, tuple[str, ...]]
    ) -> list[float]:
        rng = generator(self.seed, "budget", task.index)
        if self.value == "uniform":
            return [1.0] * len(groups)
        if self.value == "random":
            return torch.rand(len(groups), generator=rng).tolist()
        if self.value == "spectrum":
            scores = spectrum(model)
        elif self.value == "rgn":
            scores = rgn(model, task, costs, self.samples, rng)
        else:
            sizes = {n: p.numel() for n, p in model.named_parameters()}
            means = fisher(model, task, costs, self.samples, rng)
            scores = {name: means[name] * sum(sizes[n] for n in own) for name, own in groups.items()}
        finite = max((s for s in scores.values() if math.isfinite(s)), default=1.0)
        return [min(scores.get(name, 0.0), finite) for name in groups]


def solve(
    costs: StepCosts,
    groups: Sequence[Sequence[str]],
    values: Sequence[float],
    always: frozenset[str],
    fraction: float,
    reuse: float = 1.0,
) -> list[bool]:
    """Return which groups of parameters to thaw: the largest sum of values within fraction * C_full.

    With `reuse` below 1 a stage runs at every step only if it or one before it thaws, and else for that share of the steps.
    """
    program = Program(groups, always)
    program.spent = float(costs.forward)
    for cost, names in costs.terms:
        program.piece(cost, names)
    if reuse < 1.0:
        before: int | None = None  # whether the stages so far run at every step
        for number, (cost, names) in enumerate(costs.stages):
            program.spent -= (1 - reuse) * cost
            if number and before is None:  # one before always thaws, so this one always runs
                program.spent += (1 - reuse) * cost
            else:
                before = program.piece((1 - reuse) * cost, names, before)
    taken: list[bool] = []
    for slack in (1e-9, -1e-6):  # the solver's tolerance may let the first one go too far
        taken = program.maximise(values, (fraction + slack) * costs.full, costs.full)
        names = always.union(*(own for own, t in zip(groups, taken, strict=True) if t))
        if costs.cached(names, reuse) <= fraction * costs.full:
            break
    return taken
