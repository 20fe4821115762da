"""Which samples are worth looking at or keeping: by their loss, what the coming step would do to it, their gradients."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from frostline.core.examples import example_gradients
from frostline.core.importance import likelihood, visible_rows
from frostline.core.scope import evaluating
from frostline.core.step import Step
from frostline.core.types import Batch

RULES = ("random", "loss", "mir")


def worst(step: Step, candidates: Batch, count: int, rule: str) -> Batch:
    """Return the `count` candidates that need it most.

    loss: those of the highest loss now. mir: those whose loss would rise most by a step of the optimizer's rate along the
    gradient of the incoming batch's own loss (Aljundi et al. 2019, arXiv 1908.04742, MI-1). Losses are those in eval mode.
    """
    if len(candidates) <= count:
        return candidates
    loss = _losses(step, candidates, {})
    if rule == "mir":
        parameters = step.scope.parameters
        with torch.enable_grad():
            own = step.loss(step.forward(step.incoming), step.incoming.y)
            grads = torch.autograd.grad(own, list(parameters.values()), allow_unused=True)
        pairs = zip(parameters.items(), grads, strict=True)
        ahead = {name: p.detach() - step.learning_rate * g for (name, p), g in pairs if g is not None}
        loss = _losses(step, candidates, ahead) - loss
    return candidates.rows(loss.topk(count).indices)


def _losses(step: Step, batch: Batch, weights: dict[str, Tensor]) -> Tensor:
    raw = step.teacher(batch, weights)
    return step.task.objective.nll(step.mask(batch, raw).float(), batch.y)


def likeness(step: Step, batch: Batch, others: Batch | None, chunk: int = 16) -> np.ndarray:
    """Return, for each sample, the highest cosine of its loss's gradient and those of `others`, 0 where there are none."""
    if others is None:
        return np.zeros(len(batch))

    model, names = step.scope.model, list(step.scope.parameters)

    def directions(batch: Batch) -> Tensor:
        rows = visible_rows(step.task, batch)
        grads = example_gradients(model, likelihood(step.task), batch.x, batch.y, rows, names)
        return F.normalize(torch.cat([grads[name].flatten(1) for name in names], 1))

    with evaluating(model):
        known = directions(others)
        parts = [batch.rows(rows) for rows in torch.arange(len(batch)).split(chunk)]
        return torch.cat([(directions(part) @ known.T).amax(1) for part in parts]).double().cpu().numpy()
