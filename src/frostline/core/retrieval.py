"""Which samples of a memory are worth looking at now: by their loss, or by what the coming step would do to it."""

import torch
from torch import Tensor

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
