"""Fine-tuning: learn each task as it comes and do nothing against forgetting."""

from dataclasses import dataclass

from frostline.strategies.base import Strategy


@dataclass
class Finetune(Strategy):
    """The lower bound; with a selector it is `partial` retraining."""
