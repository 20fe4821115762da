"""The most valuable layers that a budget of operations allows: solved exactly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from frostline.checks import UsageError, in_range, one_of
from frostline.costs import StepCosts, TaskCosts
from frostline.rng import generator
from frostline.scope import head, layers
from frostline.selectors.base import Selector
from frostline.selectors.scores import fisher, rgn, spectrum
from frostline.types import Task

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

    The program has a binary for each group ('thawed') and a number in [0, 1] for each piece of the backward pass that
    several groups can make necessary ('the gradient passes'), which is at least each of those groups' binaries; with
    `reuse` below 1 also one for each stage ('runs at every step'), at least that of the stage before it.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import lil_array

    place = {n: number for number, own in enumerate(groups) for n in own}
    columns = len(groups)
    price = dict.fromkeys(range(columns), 0.0)
    spent = float(costs.forward)
    at_least: list[tuple[int, int]] = []  # (x, y): variable x >= variable y

    def passes(cost: float, names: frozenset[str], floor: int | None = None) -> int | None:
        """Price a piece that any of `names` makes necessary; return its variable, None where it is always so."""
        nonlocal columns, spent
        if names & always:
            spent += cost
            return None
        owners = {place[n] for n in names if n in place}
        if len(owners) == 1 and floor is None:
            only = owners.pop()
            price[only] += cost
            return only
        variable, columns = columns, columns + 1
        price[variable] = cost
        at_least.extend((variable, owner) for owner in owners)
        if floor is not None:
            at_least.append((variable, floor))
        return variable

    for cost, names in costs.terms:
        passes(cost, names)
    if reuse < 1.0:
        spent -= (1 - reuse) * sum(cost for cost, _ in costs.stages)
        running: int | None = None
        for number, (cost, names) in enumerate(costs.stages):
            if number and running is None:  # a stage before always changes: so does the activation from here on
                spent += (1 - reuse) * cost
            else:
                running = passes((1 - reuse) * cost, names, running)
    rows = lil_array((len(at_least) + 1, columns))
    lower, upper = np.full(len(at_least) + 1, -np.inf), np.zeros(len(at_least) + 1)
    for number, (x, y) in enumerate(at_least):
        rows[number, x], rows[number, y] = -1, 1
    for variable, cost in price.items():
        rows[len(at_least), variable] = cost / costs.full
    top = max(values, default=1.0) or 1.0
    objective = np.zeros(columns)
    objective[: len(groups)] = [-v / top for v in values]
    for slack in (1e-9, -1e-6):  # in shares of a full step; the solver's tolerance may let the first one go too far
        upper[-1] = fraction - spent / costs.full + slack
        answer = milp(
            objective,
            integrality=(np.arange(columns) < len(groups)).astype(int),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(rows.tocsr(), lower, upper),  # type: ignore[arg-type]
            options={"mip_rel_gap": 0.0},
        )
        taken = [False] * len(groups) if answer.x is None else [bool(round(x)) for x in answer.x[: len(groups)]]
        names = always.union(*(own for own, t in zip(groups, taken, strict=True) if t))
        if costs.cached(names, reuse) <= fraction * costs.full:
            break
    return taken
