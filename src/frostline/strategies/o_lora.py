"""O-LoRA: adapters of each task's own, at right angles to those before."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.rng import generator
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.types import Batch, Task, TaskStream
from frostline.strategies.base import Strategy


@dataclass
class OLoRA(Strategy):
    """Learn each task in low-rank adapters at right angles to those of earlier tasks (Wang et al. 2023, arXiv 2310.14152).

    Goes with selector=lora. The penalty is strength * the sum over layers and earlier tasks i of |A_i A'|^2, or of the
    absolute values, as in the authors' code (measure=absolute; the code's penalty on the adapters' size is weight decay by
    another name). When a task ends, B A is added to the weights, which computes what adapters side by side would, and new ones
    begin: a step costs the same after any number of tasks. Adds a product of [rank, D] and [D, tasks * rank] a layer.
    Stores `rank` rows a layer and task.
    """

    keeps = ("rows",)

    strength: float = 0.5
    measure: str = "squared"
    seed: int = 0
    rows: dict[str, Tensor] = field(default_factory=dict, init=False)  # every A so far, by layer

    def __post_init__(self) -> None:
        in_range("strategy.o_lora.strength", self.strength, 0)
        one_of("strategy.o_lora.measure", self.measure, ("squared", "absolute"))

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        if not any(True for _ in adapted(model)):
            raise UsageError(
                "strategy=o_lora needs adapters, which the net does not have. Expected selector=lora beside it."
            )

    def additive(self) -> bool:
        return True

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return how far the adapters are from being at right angles to the earlier ones."""
        found = logits.new_zeros(())
        for name, old in self.rows.items():
            if (down := step.scope.parameters.get(f"{name}.lora_A.default.weight")) is not None:
                overlap = old @ down.flatten(1).T
                found = found + (overlap.square() if self.measure == "squared" else overlap.abs()).sum()
        return self.strength * found

    def after_task(self, scope: Scope, task: Task) -> None:
        """Add the adapters to the weights, keep their directions, and begin new ones."""
        with torch.no_grad():
            for name, layer in adapted(scope.model):
                down, up = (layer.get_submodule(f"lora_{part}.default").weight for part in "AB")
                if f"{name}.lora_A.default.weight" not in scope.names:
                    continue  # a warm-up trains the layers themselves
                layer.base_layer.weight += layer.get_delta_weight("default")
                new = down.detach().flatten(1).clone()
                self.rows[name] = torch.cat([self.rows[name], new]) if name in self.rows else new
                bound = down[0].numel() ** -0.5  # as PEFT's own
                rng = generator(self.seed, "o_lora", name, task.index)
                down.copy_(torch.empty(down.shape).uniform_(-bound, bound, generator=rng))
                up.zero_()

    def recalls(self) -> bool:
        """Return whether there is nothing to do without earlier tasks: so it is."""
        return True

    def reads_samples(self) -> bool:
        """Say no: weights are all that it looks at."""
        return False


def adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the layers with an adapter of PEFT's, by name."""
    for name, module in model.named_modules():
        if isinstance(down := getattr(module, "lora_A", None), nn.ModuleDict) and "default" in down:
            yield name, module
