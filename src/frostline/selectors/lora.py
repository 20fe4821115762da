"""Low-rank adapters beside frozen layers."""

import re
import warnings
from dataclasses import dataclass, field

from torch import nn

from frostline.core.checks import UsageError, in_range
from frostline.core.structure import everything, head
from frostline.core.torchvision_schemas import torchvision
from frostline.core.types import Task
from frostline.costs import TaskCosts
from frostline.selectors.base import Selector


@dataclass
class LoRA(Selector):
    """Train h = W x + (alpha / rank) B A dropout(x) with W frozen, and the head (Hu et al. 2021, arXiv 2106.09685).

    PEFT adds the adapters when the run is built: A Kaiming-uniform, B zero, so that the model computes what it did
    before. include: regular expressions for the layers that get one (linear layers, convolutions and GPT-2's Conv1D; the
    head, the inside of nn.MultiheadAttention and convolutions in groups, such as depthwise ones, never do). The warm-up trains
    the layers themselves, the adapters not.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    include: list[str] = field(default_factory=lambda: [".*"])

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("selector.rank", self.rank, 1)
        in_range("selector.alpha", self.alpha, 0, above=True)
        in_range("selector.dropout", self.dropout, 0, 1)

    def prepare(self, model: nn.Module) -> None:
        """Put the adapters in, in place; UsageError where no layer matches or PEFT is missing."""
        torchvision()  # PEFT imports transformers, which imports it
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise UsageError("selector=lora needs PEFT: pip install 'frostline[text]'.") from error
        targets = self._targets(model)
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=targets)  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fan_in_fan_out")  # PEFT sets it for each layer as it must be
            inject_adapter_in_model(config, model)
        for p in model.parameters():
            p.requires_grad_(True)  # what trains is the scope's business
        for module in model.modules():
            if isinstance(module, nn.TransformerEncoderLayer):
                module.activation_relu_or_gelu = (
                    0  # its fused inference kernel would read the weights past the adapters
                )

    def warm_up(self, model: nn.Module) -> frozenset[str]:
        return everything(model) - _adapters(model)

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        if not (adapters := _adapters(model)):
            raise UsageError("The model has no adapters: expected LoRA.prepare(model) before the run is made.")
        return adapters | head(model)

    def _targets(self, model: nn.Module) -> list[str]:
        outside = {n.rpartition(".")[0] for n in head(model)}
        inner = {f"{n}.out_proj" for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}
        fitting = [
            name
            for name, module in model.named_modules()
            if (isinstance(module, nn.Linear | nn.Conv2d) or type(module).__name__ == "Conv1D")
            and getattr(module, "groups", 1) == 1  # PEFT has none for every number of groups, and merges none
            and name  # a model that is one layer is no part of another
            and name not in outside | inner
            and name.partition(".")[0] != "head"  # one that shares the embedding's weight has no parameter of its own
        ]
        targets = [name for name in fitting if any(re.search(pattern, name) for pattern in self.include)]
        if not targets:
            raise UsageError(
                f"selector.include={list(self.include)} matches no layer that can have an adapter; there are "
                f"{', '.join(fitting[:6]) or 'none'}{', ...' if len(fitting) > 6 else ''}."
            )
        return targets


def _adapters(model: nn.Module) -> frozenset[str]:
    return frozenset(n for n in everything(model) if ".lora_" in n)
