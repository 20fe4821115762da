"""What frostline does beside a loop that is not its own: choose what trains, remember, and make out the bill."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from frostline.app.python import methods_of
from frostline.core.checks import UsageError
from frostline.core.files import atomic_write
from frostline.core.scope import Scope, evaluating, frozen_norms
from frostline.core.step import Step, Weights
from frostline.core.types import Batch, Suite, Task, TaskStream
from frostline.costs import CostMeter, Prices, StepCosts, TaskCosts
from frostline.costs.flops import FlopCounter, count_flops
from frostline.costs.meter import totals
from frostline.loop.pricing import traceless
from frostline.selectors.base import Selector
from frostline.strategies.base import Strategy
from frostline.strategies.chain import Chain
from frostline.strategies.finetune import Finetune

_CLAIMED: WeakKeyDictionary[nn.Module, "Companion"] = WeakKeyDictionary()
OUT_OF_REACH = ("criterion", "parts", "task", "serving", "rates", "watching", "prepare", "after_part")


class Companion:
    """A selector, strategies and a meter, told by somebody else's loop where it is.

    The loop calls join once a model, begin before a task's first step, `mix` and `penalty` at each forward pass of training,
    `project` before and `stepped` after each update, and `end` after the last; `price` or `counted` puts a pass on the bill.
    It keeps its own optimizer, batches and loss. prefix: what the names of the model's parameters begin with here, and not
    there.
    """

    def __init__(self, selector: Any, strategy: Any, seed: int, price_per_hour: float, prefix: str = ""):
        self.as_given = selector is None
        members, self.selector = methods_of(strategy, selector, seed)
        self.strategy: Strategy = members[0] if len(members) == 1 else Chain(members)
        if not isinstance(selector, Selector):
            self.selector.warmup_tasks = 0  # whoever brings a loop along brings a model that has learned something
        _refuse(self.strategy, self.selector)
        self.prices = Prices(price_per_hour)
        self.meter = CostMeter(prices=self.prices)
        self.index = 0  # tasks that are over
        self.prefix = prefix
        self.plain = isinstance(self.strategy, Finetune)  # looks at nothing
        self.names: list[list[str]] = []  # what trained in each task
        self.held_out: dict[str, list[float]] = {}
        self.model: nn.Module | None = None
        self.optimizer: Any = None  # the other loop's
        self.scope: Scope | None = None
        self.learning = False  # in the middle of a task
        self._flops: dict[tuple[Any, ...], int] = {}
        self._open = ExitStack()  # the scope, while a task is learned
        self._phase = ExitStack()

    def claim(self, model: nn.Module) -> None:
        """Refuse a model that another companion goes with, and another model than the one that this goes with."""
        if _CLAIMED.setdefault(model, self) is not self:
            raise UsageError("This model has frostline beside it already: it was given twice, or to two trainers.")
        if any(other is not model and owner is self for other, owner in _CLAIMED.items()):
            raise UsageError("This one of frostline's went with another model. Expected a new one for each model.")

    def join(self, model: nn.Module) -> None:
        """Let the selector change a model that it has not seen, as adapters must, before an optimizer is made for it."""
        if self.model is None:
            self.selector.prepare(model)
        self.model = model
        self.meter.device = next(model.parameters()).device

    def begin(
        self, task: Task, optimizer: Any, *, shape: Sequence[int], classes: int, epochs: int, size: int, steps: int
    ) -> Scope:
        """Freeze what does not train, open the bill, and return the scope; a resumed loop goes on with what was chosen.

        optimizer: the loop's. shape: of a sample. classes: number of logits. size: of a batch. steps: of the task.
        """
        model, self.optimizer = self.model, optimizer
        assert model is not None
        self.strategy.check(model, TaskStream("this data", "domain", (replace(task, index=0),), classes, tuple(shape)))
        self.task, self._flops, self.learning = task, {}, True
        costs = TaskCosts(lambda: StepCosts.trace(model, _first(task, size).x), epochs, len(task.train))
        resumed = len(self.names) > self.index
        if not resumed:
            with self.meter.phase("select", self.index, count=True):
                self.selector.check(model, costs)
                chosen = self.selector(model, task, costs)
                if self.as_given:  # a base model under adapters, say, stays as its owner froze it
                    chosen = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
                self.names.append(sorted(chosen))
        self.scope = scope = self._open.enter_context(Scope(model, frozenset(self.names[self.index])).thawed())
        self._still = list(frozen_norms(model))
        self.step = Step(scope, task, steps, self)
        self.enter("train")
        if not resumed:
            self.strategy.before_task(scope, task)
        self.strategy.thawing(scope, task)
        self.meter.row.trainable_parameters = scope.size
        return scope

    @property
    def now(self) -> int | None:
        """The task that what happens is charged to: the one that is learned, or was last; None before the first."""
        return self.index if self.learning else self.index - 1 if self.index else None

    def enter(self, phase: str | None) -> None:
        """Go on with another phase; None: with what is on nobody's bill."""
        self._phase.close()
        if phase is not None:
            self._phase.enter_context(self.meter.phase(phase, self.now))

    def hold(self) -> None:
        """Let frozen norms stand still, whatever the loop did."""
        for module in self._still:
            module.eval()

    def forget(self, key: tuple[Any, ...]) -> None:
        """Count the next pass of this kind again: this one was not a whole one."""
        self._flops.pop(key, None)

    def mix(self, batch: Batch, number: int) -> Batch:
        """Return the batch to learn from, with what the strategy adds; `hold` included."""
        self.hold()
        self.step.number, self.step.incoming = number, batch
        return self.strategy.augment(self.step, batch) if self.strategy.uses("augment") else batch

    def penalty(self, batch: Batch, logits: Tensor) -> Tensor | None:
        """Return what is added to the loss of a batch, None where that is nothing."""
        self.batch, self.step.raw = batch, logits
        if not self.strategy.uses("penalty"):
            return None
        found = self.strategy.penalty(self.step, batch, logits)
        return found if found.requires_grad else None

    def reads_logits(self) -> bool:
        """Tell whether what is added to the loss is about the batch, and not about weights alone."""
        members = getattr(self.strategy, "members", [self.strategy])
        return any(member.uses("penalty") and member.reads_samples() for member in members)

    def price(self, key: tuple[Any, ...], size: int, work: Callable[[], Any]) -> None:
        """Put a pass on the bill; `work` does one, counted off it and without a trace, the first time that a shape comes."""
        if key not in self._flops:
            with self.meter.paused(), ExitStack() as stack:
                if self.learning and self.scope is not None:
                    stack.enter_context(traceless(self.strategy, self.scope, self.meter.device))
                self._flops[key] = count_flops(work, self.meter.uncounted)
        row = self.meter.row
        row.samples += size
        row.flops += self._flops[key]

    @contextmanager
    def counted(self, key: tuple[Any, ...], size: int = 0) -> Iterator[None]:
        """Put what is done inside on the bill; it is counted while it is done, the first time that its key comes."""
        row = self.meter.row
        row.samples += size
        if key in self._flops:
            yield
        else:
            with FlopCounter() as counter:
                yield
            self._flops[key] = counter.total
            self.meter.uncounted |= counter.uncounted
        row.flops += self._flops[key]

    def project(self) -> None:
        """Let the strategy change the gradients that an update is about to be made with."""
        assert self.scope is not None
        if self.strategy.uses("project"):
            grads = {name: p.grad for name, p in self.scope.parameters.items() if p.grad is not None}
            for name, g in self.strategy.project(self.step, self.batch, grads).items():
                self.scope.parameters[name].grad = g

    def stepped(self) -> None:
        """Tell the strategy of an update, while its gradients are still there."""
        assert self.scope is not None
        self.meter.row.steps += 1
        if self.strategy.uses("after_step"):
            grads = {name: p.grad for name, p in self.scope.parameters.items() if p.grad is not None}
            self.strategy.after_step(self.step, self.batch, grads)

    def end(self) -> None:
        """Let the strategy remember what must not be lost; unfreeze, and stand before the next task."""
        assert self.scope is not None
        self.enter("train")
        self.meter.row.stored_bytes = self.strategy.stored_bytes() + self.selector.stored_bytes()
        self._phase.close()
        with self.meter.phase("consolidate", self.index, count=True) as row:
            self.strategy.after_task(self.scope, self.task)
            row.stored_bytes = self.strategy.stored_bytes()
        self._open.close()
        self.index, self.learning = self.index + 1, False

    def abandon(self) -> None:
        """Unfreeze after a training that an error ended, if one did: its task was not learned."""
        self._phase.close()
        self._open.close()
        self.learning = False
        del self.names[self.index :]

    def evaluate(self, suites: Mapping[str, Suite], size: int) -> None:
        """Add each suite's mean loss per target; charged to `evaluate`, of set-up where no task has begun."""
        assert self.model is not None
        if not suites:
            return
        with self.meter.phase("evaluate", self.now, count=True) as row, torch.no_grad(), evaluating(self.model):
            for name, suite in suites.items():
                total = targets = 0.0
                for batch in suite.source.batches(size):
                    counted = suite.objective.counted(batch.y).sum().item()
                    total += suite.objective.nll(self.model(batch.x).float(), batch.y).sum().item()
                    targets += counted
                    row.samples += len(batch)
                if not targets:
                    raise UsageError(f"held_out {name!r} has no targets: nothing to measure a loss on.")
                self.held_out.setdefault(name, []).append(total / targets)

    @property
    def forgetting(self) -> dict[str, float]:
        """By how much the loss on each held-out suite has risen since it was first measured, nats a target (PEFT's measure)."""
        return {name: losses[-1] - losses[0] for name, losses in self.held_out.items()}

    def result(self) -> dict[str, Any]:
        """Return what was trained, what it cost and what it forgot, as plain values."""
        return {
            "schema": "frostline.companion/1",
            "trained": [[name.removeprefix(self.prefix) for name in names] for names in self.names],
            "held_out": {name: list(map(_number, losses)) for name, losses in self.held_out.items()},
            "forgetting": {name: _number(rise) for name, rise in self.forgetting.items()},
            "ledger": [dict(vars(row)) for row in self.meter.rows],
            "totals": totals(self.meter.rows),
            "uncounted_operators": sorted(self.meter.uncounted),
        }

    def save(self, file: Path, **more: Any) -> None:
        """Write the result, and what else there is, as JSON."""
        with atomic_write(file) as f:
            json.dump({**self.result(), **more}, f, indent=1, allow_nan=False)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that going on depends on, as tensors and plain values."""
        return {
            "methods": self._methods(),
            "index": self.index,
            "names": self.names,
            "held_out": self.held_out,
            "strategy": self.strategy.state_dict(),
            "selector": self.selector.state_dict(),
            "meter": self.meter.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        if (methods := state.get("methods", self._methods())) != self._methods():
            raise UsageError(
                f"The checkpoint was taken with {', '.join(methods)}: expected the same, not "
                f"{', '.join(self._methods())}."
            )
        self.index, self.names, self.held_out = state["index"], state["names"], state["held_out"]
        self.strategy.load_state_dict(state["strategy"])
        self.selector.load_state_dict(state["selector"])
        self.meter.load_state_dict(state["meter"])

    def _methods(self) -> list[str]:
        members = getattr(self.strategy, "members", [self.strategy])
        return [type(part).__name__ for part in (self.selector, *members)]

    # What a Step asks of its network.

    def logits(self, batch: Batch, weights: Weights | None = None) -> Tensor:
        assert self.model is not None
        if weights is None:
            return self.model(batch.x)
        return cast(Tensor, torch.func.functional_call(self.model, dict(weights), (batch.x,)))

    def teach(self, batch: Batch, weights: Weights) -> Tensor:
        assert self.model is not None
        with evaluating(self.model):
            return self.logits(batch, weights)

    def state(self, name: str) -> dict[str, Any]:
        assert self.scope is not None
        return {} if self.optimizer is None else self.optimizer.state[self.scope.parameters[name]]

    def learning_rate(self) -> float:
        return 0.0 if self.optimizer is None else float(self.optimizer.param_groups[0]["lr"])


def check_unwrapped(model: nn.Module) -> None:
    """Refuse a compiled model, or one within DataParallel and the like: its parameters have other names."""
    if hasattr(model, "_orig_mod") or isinstance(getattr(model, "module", None), nn.Module):
        raise UsageError(
            f"The model is wrapped already, in {type(model).__name__}. Expected the model itself; whoever trains it wraps "
            "it where that is needed."
        )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _first(task: Task, size: int) -> Batch:
    return next(iter(task.train.batches(size)))


def _refuse(strategy: Strategy, selector: Selector) -> None:
    """Refuse what needs a loop of ours."""
    members = getattr(strategy, "members", [strategy])
    for member in members:
        beyond = [hook for hook in OUT_OF_REACH if member.uses(hook)]
        if beyond:
            raise UsageError(
                f"strategy={type(member).__name__.lower()} decides over {beyond[0]}, which belongs to the other loop here. "
                "Expected a method that adds to the loss or to the batch, such as ewc, lwf, si, mas or replay."
            )
    if type(selector).change is not Selector.change or selector.observes:
        raise UsageError(
            f"selector={type(selector).__name__.lower()} changes what trains within a task, which the other loop's optimizer "
            "cannot follow. Expected one that chooses when a task begins, such as attention_projections or last_k."
        )
