"""How far what a net says has moved from what it said at first, to which words, and by which block's attention or MLP.

Zhu et al. 2025 (arXiv 2510.08564) lay forgetting that comes and goes to a shift of the output distribution, seen in the mass on
number words; this is that probe for any group of words, with the whole distribution beside it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from frostline.core.structure import is_staged
from frostline.core.types import Batch, masked

# Modules that add to the state, in models built like Llama or GPT-2.
ADDING = re.compile(r"(^|\.)(self_attn|attn|mlp)$")
# "says" [P, V] log-probabilities, "state" [P, D] after the last block, and by its name what each part added to it, [P, D].
Said = dict[str, Tensor]


class Reading(NamedTuple):
    """A batch to be read, and which of its places [B, ...] count, bool."""

    batch: Batch
    places: Tensor


def say(model: nn.Module, readings: Iterable[Reading], visible: Tensor | None) -> Said:
    """Return what a net says at some places, among the visible classes, and where it is read at every token what made it so.

    Call it without gradients, in eval mode.
    """
    found: dict[str, list[Tensor]] = {}
    for batch, places in readings:

        def add(name: str, value: Tensor, places: Tensor = places) -> None:
            if value.shape[: places.ndim] == places.shape:
                found.setdefault(name, []).append(value[places].float().cpu())

        with _overheard(model, add) if places.ndim > 1 else nullcontext():
            raw = model(batch.x)
        add("says", masked(raw, visible).float().log_softmax(-1))
    return {name: torch.cat(values) for name, values in found.items()}


def measure(model: nn.Module, before: Said, now: Said, groups: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return how `now` differs from `before`, means over places.

    kl: Kullback-Leibler divergence of before from now, nats. entropy: of now, nats. same: how often the likeliest word is the
    one it was. mass: of each group of words [n], its probability. attention, mlp: of each block, how far the logits would move
    (root mean square over words, of what softmax sees) if nothing but what it adds to the last block's state were the new one:
    today's head reads the old state with, and without, the difference.
    """
    old, new = before["says"], now["says"]
    p, q = old.exp(), new.exp()
    found: dict[str, Any] = {
        "kl": float(torch.where(p > 0, p * (old - new), 0).sum(-1).mean()),
        "entropy": float(-torch.where(q > 0, q * new, 0).sum(-1).mean()),
        "same": float((old.argmax(-1) == new.argmax(-1)).double().mean()),
        "mass": {name: float(q[:, words].sum(-1).mean()) for name, words in groups.items()},
    }
    for kind in ("attention", "mlp"):
        blocks = sorted((int(name.split()[1]), name) for name in before if name.startswith(f"{kind} ") and name in now)
        found[kind] = [_moves(model, before["state"], now[name] - before[name]) for _, name in blocks]
    return found


def typical(labels: Tensor, other: Tensor, words: int, times: float = 4.0, least: float = 1e-4) -> Tensor:
    """Return the words that are `times` as frequent among the labels as among others, and `least` of them, [n]."""
    here, there = (torch.bincount(y, minlength=words)[:words] / max(1, len(y)) for y in (labels, other))
    return ((here >= least) & (here > times * there)).nonzero().flatten()


def _moves(model: Any, state: Tensor, change: Tensor) -> float:
    device = next(model.parameters()).device
    moved = torch.zeros((), dtype=torch.float64)
    for old, new in zip(state.split(256), (state + change).split(256), strict=True):
        logits = [model.head(_last(model)((h, h))) for h in (old.to(device)[None], new.to(device)[None])]
        difference = (logits[1] - logits[0]).double()
        moved += (difference - difference.mean(-1, keepdim=True)).square().mean(-1).sqrt().sum().cpu()
    return float(moved) / len(state)


def _last(model: Any) -> nn.Module:
    """Return the stage that norms the last block's state."""
    return model.stages()[-1]


def adding(model: nn.Module) -> dict[str, nn.Module]:
    """Return what adds to the state of a model that is read at every token: 'attention 1', 'mlp 1', 'attention 2', ..."""
    if not is_staged(model):
        return {}
    found = {}
    for number, stage in enumerate(model.stages()[1:-1], 1):
        for name, module in stage.named_modules():
            if ADDING.search(name):
                kind = "mlp" if name.endswith("mlp") else "attention"
                found.setdefault(f"{kind} {number}", module)
    return found


@contextmanager
def _overheard(model: Any, add: Any) -> Iterator[None]:
    """Add what each attention and MLP adds to the state, and the state that they make, while a batch goes by."""

    def hear(name: str) -> Any:
        return lambda _, __, out: add(name, out if isinstance(out, Tensor) else out[0])

    def hear_state(_: Any, inputs: tuple) -> None:
        state = inputs[0]
        add("state", state if isinstance(state, Tensor) else state[0])

    parts = adding(model)
    handles = [module.register_forward_hook(hear(name)) for name, module in parts.items()]
    if parts:
        handles.append(_last(model).register_forward_pre_hook(hear_state))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
