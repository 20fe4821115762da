"""Prompts: learned tokens beside a transformer's own, chosen for each sample by what the net makes of it without them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError
from frostline.core.scope import evaluating
from frostline.core.structure import is_staged, run_stages
from frostline.core.types import Source

Tokens = Mapping[int, Tensor]  # by block, [B, P, D]
Choose = Callable[[Tensor], Tokens]  # of queries [B, D]


def needs_tokens(name: str, model: Any, source: Source) -> None:
    """Raise UsageError for a model that does not pass tokens [B, L, D] from block to block, or answers from the last one."""
    what, net = "", model
    if not is_staged(model) or len(model.stages()) < 3:
        what = "has no blocks that say what they pass on"
    else:
        batch = next(iter(source.batches(1)))
        with torch.no_grad(), evaluating(net):
            (hidden, *_) = run_stages(model, 0, 1, batch.x)
        if hidden.ndim != 3:
            what = f"passes on {list(hidden.shape)}, not tokens [B, L, D]"
        elif getattr(model.stages()[-1], "reads_last", False):
            what = "reads the last token, which a prompt would be"
    if what:
        raise UsageError(
            f"strategy={name} puts tokens beside a transformer's own, and {type(net).__name__} {what}. Expected a vision "
            "transformer or an encoder of texts: model=vit, model=minilm."
        )


class Prompting:
    """Puts tokens beside a model's own: hooks, so that the model stays what it is."""

    def __init__(self) -> None:
        self.tokens: Tokens = {}
        self.asking = False

    @contextmanager
    def at(self, model: Any, choose: Choose, stay: bool = False) -> Iterator[None]:
        """Let every forward pass of the block run with the tokens that `choose` gives for the samples' queries.

        A query is the head's input without prompts, in eval mode and without gradient. Tokens are put behind the block's own
        and taken away after it; stay: they go on to the end.
        """

        def ask(module: Any, inputs: tuple[Tensor, ...]) -> None:
            self.asking = True
            try:
                with torch.no_grad(), evaluating(module):
                    (query,) = run_stages(module, 0, len(module.stages()), inputs[0])
            finally:
                self.asking = False
            self.tokens = choose(query)

        with ExitStack() as stack:
            stack.callback(model.register_forward_pre_hook(ask).remove)
            for number, block in enumerate(model.stages()[1:-1]):
                stack.callback(block.register_forward_pre_hook(self._adding(number)).remove)
                if not stay:
                    stack.callback(block.register_forward_hook(self._taking(number)).remove)
            yield

    def _adding(self, number: int) -> Callable[..., Any]:
        def add(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
            if self.asking or number not in self.tokens:
                return None
            more = self.tokens[number]
            if isinstance(inputs[0], Tensor):
                return (torch.cat((inputs[0], more.to(inputs[0].dtype)), 1),)
            hidden, real = inputs[0]
            return ((torch.cat((hidden, more.to(hidden.dtype)), 1), torch.cat((real, _ones(real, more)), 1)),)

        return add

    def _taking(self, number: int) -> Callable[..., Any]:
        def take(module: nn.Module, inputs: Any, output: Any) -> Any:
            if self.asking or number not in self.tokens:
                return None
            count = self.tokens[number].shape[1]
            if isinstance(output, Tensor):
                return output[:, :-count]
            hidden, real = output
            return hidden[:, :-count], real[:, :-count]

        return take


def _ones(real: Tensor, more: Tensor) -> Tensor:
    return torch.ones(more.shape[:2], dtype=real.dtype, device=real.device)
