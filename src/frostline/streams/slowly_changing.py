"""Regression on inputs that change slowly: where a net that goes on learning loses the ability to."""

import functools
import itertools

import torch
from torch import Tensor

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.objectives import Regression
from frostline.core.rng import generator
from frostline.core.sources import Drawn, TensorSource
from frostline.core.types import Task, TaskStream

MOST = 12  # inputs that are drawn anew at every sample: all their combinations are kept


def slowly_changing_regression(
    tasks: int = 100,
    samples_per_task: int = 10_000,
    inputs: int = 20,
    slow_inputs: int = 15,
    units: int = 100,
    beta: float = 0.7,
    change: str = "one",
    threshold: str = "code",
    tolerance: float = 0.5,
    seed: int = 0,
    device: str = "cpu",
) -> TaskStream:
    """Return the slowly-changing regression (Dohare et al. 2024, Nature 632, Methods), a task a stretch of equal slow inputs.

    Samples are `inputs` bits, of which the first `slow_inputs` are the same throughout a task and the others drawn at every
    sample. The target is what a fixed net of `units` threshold units makes of them, all of its weights 1 or -1. A task's test
    data are each combination of its fast inputs once: the loss there is the expected squared error itself, no estimate.

    change: from task to task 'one' slow input turns over, as the paper says, or 'all' are drawn anew, as the authors' code does
    unless flip_one is set. threshold: a unit is on from beta * (inputs + 1) - S on; in the 'paper' S counts its weights
    of -1, the bias among them; the authors' 'code' takes the bias with the wrong sign. seed: of the net and of the inputs.
    """
    one_of("stream.change", change, ("one", "all"))
    one_of("stream.threshold", threshold, ("code", "paper"))
    in_range("stream.tasks", tasks, 1)
    in_range("stream.samples_per_task", samples_per_task, 1)
    in_range("stream.inputs", inputs, 1)
    in_range("stream.slow_inputs", slow_inputs, 0, inputs)
    in_range("stream.units", units, 1)
    in_range("stream.beta", beta, 0, 1)
    if inputs - slow_inputs > MOST:
        raise UsageError(
            f"stream.slow_inputs={slow_inputs} of stream.inputs={inputs} leave {inputs - slow_inputs} that change at every "
            f"sample. Expected at most {MOST}: stream.slow_inputs={inputs - MOST}."
        )
    slow = _slow_inputs(tasks, slow_inputs, change, seed)
    fast = torch.tensor(list(itertools.product((0, 1), repeat=inputs - slow_inputs))).view(
        2 ** (inputs - slow_inputs), -1
    )
    target = functools.partial(_target, *_net(inputs, units, beta, threshold, seed))
    made = []
    for t, bits in enumerate(slow):
        x = torch.cat([bits.expand(len(fast), -1), fast], 1).float()
        x, y = x.to(device), target(x)
        draw = functools.partial(_draw, x, y, samples_per_task, t, seed)
        key = (inputs, slow_inputs, units, beta, threshold, seed, t, samples_per_task, bits.tolist())
        made.append(
            Task(
                index=t,
                name=f"{t}",
                classes=(),
                train=Drawn(draw, samples_per_task, key),
                test=TensorSource(x, y, torch.arange(len(x)), t),
                objective=Regression(tolerance),
            )
        )
    return TaskStream("slowly_changing_regression", "domain", tuple(made), 1, (inputs,), online=True)


def _slow_inputs(tasks: int, count: int, change: str, seed: int) -> Tensor:
    """Return the slow inputs of each task, [tasks, count] of 0 and 1."""
    rng = generator(seed, "slow inputs")
    drawn = torch.randint(2, (tasks, count), generator=rng)
    if change == "all" or not count:
        return drawn
    turned = torch.zeros_like(drawn)
    turned[torch.arange(1, tasks), torch.randint(count, (tasks - 1,), generator=rng)] = 1
    return (drawn[0] + turned.cumsum(0)) % 2


def _net(inputs: int, units: int, beta: float, threshold: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return incoming weights [units, inputs], the least sums at which units are on, outgoing weights, and the last bias."""
    signs = torch.randint(2, (units * (inputs + 2) + 1,), generator=generator(seed, "target net")) * 2.0 - 1
    weight, bias, outgoing, last = signs.split([units * inputs, units, units, 1])
    weight = weight.view(units, inputs)
    negative = (inputs - weight.sum(1) + (bias if threshold == "code" else 1 - bias)) / 2
    return weight, beta * (inputs + 1) - negative - bias, outgoing, last


def _target(weight: Tensor, least: Tensor, outgoing: Tensor, last: Tensor, x: Tensor) -> Tensor:
    return (x @ weight.T >= least).float() @ outgoing + last


def _draw(x: Tensor, y: Tensor, count: int, task: int, seed: int) -> TensorSource:
    rows = torch.randint(len(x), (count,), generator=generator(seed, "fast inputs", task))
    return TensorSource(x, y[rows], rows, task)
