"""DualPrompt: prompts that all tasks share in the first blocks, and each task's own behind them."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import in_range
from frostline.core.prompting import Tokens
from frostline.core.step import Step
from frostline.core.types import Batch
from frostline.strategies.prompted import Prompted


@dataclass
class DualPrompt(Prompted):
    """Learn general prompts for some blocks and expert ones, a set a task, for others (Wang et al. 2022, arXiv 2204.04799).

    While a task is learned its own experts are put in, and its key is drawn to its samples; a sample of unknown task gets the
    experts whose key is nearest. blocks: numbers from 0; those that the net has not are left out. Prompts are tokens behind
    those of their block, taken away after it: the paper's prompt tuning; its other way, prefix tuning, puts them among keys and
    values alone. It owns the loss and the answer. Stores the prompts. Adds a forward pass without prompts, and the tokens, to a
    step.
    """

    name: ClassVar[str] = "dualprompt"

    general: list[int] = field(default_factory=lambda: [0, 1])
    experts: list[int] = field(default_factory=lambda: [2, 3, 4])
    general_length: int = 5
    expert_length: int = 20
    pull: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("general_length", "expert_length"):
            in_range(f"strategy.dualprompt.{name}", getattr(self, name), 1)
        in_range("strategy.dualprompt.pull", self.pull, 0)
        self.near = torch.zeros(0)

    def create(self, prompts: nn.ParameterDict, width: int, blocks: int, index: int) -> None:
        for block in self.general:
            if block < blocks and f"general{block}" not in prompts:
                prompts[f"general{block}"] = self.drawn(f"general{block}", self.general_length, width)
        if f"key_{index}" not in prompts:
            prompts[f"key_{index}"] = self.drawn(f"key_{index}", width)
            for block in self.experts:
                if block < blocks:
                    key = f"expert{block}_{index}"
                    prompts[key] = self.drawn(key, self.expert_length, width)

    def tokens(self, prompts: nn.ParameterDict, query: Tensor) -> Tokens:
        known = range(self.learned) if self.task_now is None else [self.task_now]
        keys = torch.stack([prompts[f"key_{task}"] for task in known])
        cosines = F.normalize(query) @ F.normalize(keys).T
        self.near = cosines[:, 0]
        which = cosines.argmax(1)
        found = {}
        for block in self.general:
            if f"general{block}" in prompts:
                found[block] = prompts[f"general{block}"].expand(len(query), -1, -1)
        for block in self.experts:
            if f"expert{block}_0" in prompts:
                found[block] = torch.stack([prompts[f"expert{block}_{task}"] for task in known])[which]
        return found

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the pull of the task's key to its samples."""
        return -self.pull * self.near.mean()
