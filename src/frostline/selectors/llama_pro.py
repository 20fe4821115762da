"""Added blocks between frozen ones."""

import copy
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError, in_range
from frostline.core.rng import generator
from frostline.core.structure import everything, head, is_staged
from frostline.core.types import Task
from frostline.costs import TaskCosts
from frostline.selectors.base import Selector
from frostline.selectors.roles import DOWN, OUT

MARK = "_added"  # ends an added block's name


@dataclass
class LlamaPro(Selector):
    """Add `blocks` copies of transformer blocks that change nothing yet, and train those alone (Wu et al. 2024, LLaMA Pro).

    arXiv 2401.02415. They stand at equal distances, each a copy of the block before it whose last projections, of attention
    and of the MLP, are zero. with_head: the classifier too. The warm-up trains the net as it was. A net whose blocks norm
    their output, as BERT's, would be changed by them and is refused.
    """

    blocks: int = 1
    with_head: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("selector.blocks", self.blocks, 1)

    def prepare(self, model: nn.Module) -> None:
        """Put the blocks in, in place; UsageError where the net has none that can be copied, or too few."""
        name = type(model).__name__
        row = next((m for m in model.modules() if isinstance(m, nn.Sequential) and _is_row(model, m)), None)
        found = [] if row is None else [n for n, stage in row.named_children() if _ends(stage)]
        if row is None or not found:
            raise UsageError(
                f"selector=llama_pro copies transformer blocks, of which {name} has none in a row. Expected a model such as "
                "vit, timm's transformers or a Hugging Face decoder."
            )
        if self.blocks > len(found):
            raise UsageError(
                f"selector.blocks={self.blocks}: {name} has {len(found)} blocks to copy. The nearest valid value is "
                f"{len(found)}."
            )
        after = {found[(number + 1) * len(found) // self.blocks - 1] for number in range(self.blocks)}
        stages = list(row.named_children())
        for key, stage in stages:
            del row._modules[key]
            row.add_module(key, stage)
            if key in after:
                row.add_module(f"{key}{MARK}", _identity(stage, name))

    def warm_up(self, model: nn.Module) -> frozenset[str]:
        return everything(model) - _added(model)

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        return _added(model) | head(model) if self.with_head else _added(model)


def _is_row(model: nn.Module, module: nn.Sequential) -> bool:
    """Tell whether the model's stages are this module's children."""
    return is_staged(model) and [id(m) for m in model.stages()] == [id(m) for m in module.children()]


def _ends(stage: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a block's last projections; none where it lacks one of the two."""
    names = {n: p for n, p in stage.named_parameters() if re.search(f"{OUT}|{DOWN}", f".{n}")}
    return names if all(any(re.search(kind, f".{n}") for n in names) for kind in (OUT, DOWN)) else {}


def _identity(block: nn.Module, name: str) -> nn.Module:
    """Return a copy that puts out what comes in."""
    fresh = copy.deepcopy(block)
    ends = _ends(fresh)
    with torch.no_grad():
        for p in ends.values():
            p.zero_()
    width = min(ends.values(), key=lambda p: p.ndim).shape[
        0
    ]  # a bias, where there is one: GPT-2 turns its weights round
    if not _puts_out_what_comes_in(fresh, width):
        raise UsageError(
            f"selector=llama_pro: a copy of a block of {name} with its last projections at zero changes what comes in, as one "
            "does that norms what it puts out: added, it would change the net. Expected blocks that norm what comes in, as "
            "those of vit, GPT-2 and Llama."
        )
    return fresh


def _puts_out_what_comes_in(block: nn.Module, width: int) -> bool:
    device = next(block.parameters()).device
    hidden = torch.randn(2, 3, width, generator=generator("llama_pro", width)).to(device)
    states: list[Tensor | tuple[Tensor, Tensor]] = [hidden, (hidden, torch.ones_like(hidden[..., 0], dtype=torch.bool))]
    for state in states:
        try:
            with torch.no_grad():
                out = block(state)
        except Exception:  # a block of another kind: what comes between its stages is its own business
            continue
        return torch.allclose(out[0] if isinstance(out, tuple) else out, hidden, atol=1e-5)
    return False


def _added(model: nn.Module) -> frozenset[str]:
    return frozenset(n for n in everything(model) if f"{MARK}." in n)
