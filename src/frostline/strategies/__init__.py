"""How to learn the next task without losing the last: one method a file, and Chain to combine them."""

from frostline.strategies.base import Grads, Strategy
from frostline.strategies.chain import Chain
from frostline.strategies.ewc import EWC
from frostline.strategies.finetune import Finetune
from frostline.strategies.joint import Cumulative, Joint
from frostline.strategies.replay import Replay

__all__ = ["EWC", "Chain", "Cumulative", "Finetune", "Grads", "Joint", "Replay", "Strategy"]
