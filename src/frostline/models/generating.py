"""Greedy generation, a token at a time, with what was computed for the tokens before kept in a cache."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from frostline.models.llama import Attention, Tokens

Step = Callable[[Tensor], Tensor]  # new tokens [1, n] -> logits [V] of what follows the last one


def generate(model: nn.Module, prompt: Tensor, ends: Sequence[Sequence[int]], most: int) -> list[int]:
    """Return the likeliest tokens after a prompt [L], each after those before it, until one of `ends` or `most` of them.

    Call it without gradients, in eval mode. What ends an answer is part of it.
    """
    said: list[int] = []
    with _stepping(model, prompt) as step:
        logits = step(prompt[None])
        while True:
            said.append(int(logits.argmax()))
            if len(said) >= most or any(said[-len(end) :] == list(end) for end in ends):
                return said
            logits = step(torch.tensor([said[-1:]], device=prompt.device))


@contextmanager
def _stepping(model: nn.Module, prompt: Tensor) -> Iterator[Step]:
    whole = getattr(model, "whole", ())
    own = [module for module in model.modules() if isinstance(module, Attention)]
    if whole and _agree(model, whole[0], prompt):
        yield _with_cache(whole[0])
    elif own and all(module.end is None for module in model.modules() if isinstance(module, Tokens)):
        for module in own:
            module.past = ()
        try:
            yield lambda ids: model(ids)[0, -1]
        finally:
            for module in own:
                module.past = None
    else:
        yield _again(model)


def _with_cache(net: nn.Module) -> Step:
    """Return steps of a model of transformers', which keeps keys and values itself."""
    past = None

    def step(ids: Tensor) -> Tensor:
        nonlocal past
        found = net(input_ids=ids, past_key_values=past, use_cache=True)
        past = found.past_key_values
        return found.logits[0, -1]

    return step


def _again(model: nn.Module) -> Step:
    """Return steps of a model without a cache: all tokens go through it again."""
    before: list[Tensor] = []

    def step(ids: Tensor) -> Tensor:
        before.append(ids)
        return model(torch.cat(before, 1))[0, -1]

    return step


def _agree(model: nn.Module, net: nn.Module, prompt: Tensor) -> bool:
    """Tell whether the uncut net answers as the model does: a method may serve another head, or have grown a block."""
    ours, theirs = model(prompt[None])[0, -1].float(), net(input_ids=prompt[None]).logits[0, -1].float()
    return float((ours - theirs).abs().max()) <= 1e-2 * float(theirs.abs().max().clamp(min=1))
