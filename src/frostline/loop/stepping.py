"""One training step, of one lesson or of several at once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from frostline.core.scope import statistics_held
from frostline.core.types import Batch
from frostline.loop.backend import Engine
from frostline.strategies.base import Strategy


def take_step(engine: Engine, batches: Sequence[Batch], *, update: bool = True) -> tuple[Tensor, list[int]]:
    """Take a step of every lesson; return the losses, still on the device, and how many samples each lesson saw.

    Each strategy sees its own batch, logits and gradients, as if it were alone. update: false for a probe, which moves
    nothing.
    """
    steps, strategies = engine.steps, [lesson.run.strategy for lesson in engine.lessons]
    for step, batch in zip(steps, batches, strict=True):
        step.incoming = batch
    each = zip(strategies, steps, batches, strict=True)
    mixed = engine.view([strategy.augment(step, batch) for strategy, step, batch in each])
    losses = _gradients(engine, strategies, mixed)
    if radius := engine.lessons[0].run.settings.sam:
        raws = [step.raw for step in steps]
        with _uphill(engine, radius):
            _gradients(engine, strategies, mixed)
        for step, raw in zip(steps, raws, strict=True):
            step.raw = raw
    for place, (lesson, step, batch) in enumerate(zip(engine.lessons, steps, mixed, strict=True)):
        strategy, observes = lesson.run.strategy, update and lesson.run.selector.observes
        if observes or strategy.uses("project"):
            grads = engine.gradients(place)
            kept = strategy.project(step, batch, dict(grads))
            engine.replace_gradients(place, grads, kept)
            if observes:
                lesson.run.selector.observe(kept)
    if update:
        if (most := engine.lessons[0].run.settings.clip) is not None:
            for place in range(len(steps)):
                _clip(engine.gradients(place), most)
        engine.update()
    for place, (strategy, step, batch) in enumerate(zip(strategies, steps, mixed, strict=True)):
        if strategy.uses("after_step"):
            strategy.after_step(step, batch, engine.gradients(place))
    found = losses.detach() if isinstance(losses, Tensor) else losses[0].detach()
    return found, [len(batch) for batch in mixed]


def _gradients(engine: Engine, strategies: Sequence[Strategy], batches: Sequence[Batch]) -> Sequence[Tensor] | Tensor:
    """Compute the gradients of the batches' losses, and return those; of micro-batches one after another, where asked for."""
    size = engine.lessons[0].run.settings.micro_batch_size
    if size is None or len(batches[0]) <= size:
        return _backward(engine, strategies, batches)
    (whole,), objective, total = batches, engine.steps[0].task.objective, torch.zeros((), device=batches[0].y.device)
    count = objective.counted(whole.y).sum()
    for start in range(0, len(whole), size):
        part = whole.rows(slice(start, start + size))
        share = objective.counted(part.y).sum() / count  # of the mean over all targets
        total += _backward(engine, strategies, [part], share, more=start > 0)[0].detach()
    return [total]


def _backward(
    engine: Engine,
    strategies: Sequence[Strategy],
    batches: Sequence[Batch],
    share: Tensor | None = None,
    more: bool = False,
) -> Sequence[Tensor] | Tensor:
    losses = engine.losses_in_pieces(batches)
    if losses is None:
        losses = _losses(engine, strategies, batches, engine.forward(batches))
    if share is not None:
        losses = [losses[0] * share]
    engine.backward(losses, more)
    return losses


def _length(grads: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([g.float().norm() for g in grads.values()]).norm()


def _clip(grads: Mapping[str, Tensor], most: float) -> None:
    """Shorten gradients to a common length of at most `most`, without waiting for the device."""
    scale = (most / (_length(grads) + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_ does
    for g in grads.values():
        g.mul_(scale)


@contextmanager
def _uphill(engine: Engine, radius: float) -> Iterator[None]:
    """Move every lesson's weights by `radius` along their gradient for the block (Foret et al. 2021, arXiv 2010.01412).

    Running statistics stand still meanwhile: they are those of the weights that are kept.
    """
    stays: list[tuple[Tensor, Tensor]] = []
    with ExitStack() as stack:
        for place, step in enumerate(engine.steps):
            stack.enter_context(statistics_held(step.scope.model))
            grads = engine.gradients(place)
            length = _length(grads)
            for name, g in grads.items():
                p = step.scope.parameters[name].data
                stays.append((p, p.clone()))
                p.add_(g * (radius / (length + 1e-12)))
        try:
            yield
        finally:
            for p, value in stays:
                p.copy_(value)


def _losses(
    engine: Engine, strategies: Sequence[Strategy], batches: Sequence[Batch], raws: Sequence[Tensor] | Tensor
) -> Sequence[Tensor] | Tensor:
    """Return each lesson's loss: a list of one, or [S]."""
    for step, raw in zip(engine.steps, raws, strict=True):
        step.raw = raw
    logits = engine.mask(batches, raws)
    each = list(zip(strategies, engine.steps, batches, logits, strict=True))
    if isinstance(logits, Tensor) and not any(s.uses("criterion") for s in strategies):
        losses = engine.steps[0].task.objective.losses(logits, torch.stack([batch.y for batch in batches]))
    else:
        losses = _joined([strategy.criterion(step, batch, z) for strategy, step, batch, z in each])
    if not any(s.uses("penalty") for s in strategies):
        return losses
    penalties = _joined([strategy.penalty(step, batch, z) for strategy, step, batch, z in each])
    if isinstance(losses, Tensor) and isinstance(penalties, Tensor):
        return losses + penalties
    return [losses[0] + penalties[0]]


def _joined(losses: list[Tensor]) -> list[Tensor] | Tensor:
    """Return the losses of several lessons as one tensor, that of a single one as it is."""
    return torch.stack(losses) if len(losses) > 1 else losses
