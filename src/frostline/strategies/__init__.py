"""How to learn the next task without losing the last: one method a file, and Chain to combine them."""

from frostline.strategies.base import Grads, Strategy
from frostline.strategies.chain import Chain
from frostline.strategies.continual_backprop import ContinualBackprop
from frostline.strategies.der_pp import DERpp
from frostline.strategies.er_ace import ERACE
from frostline.strategies.ewc import EWC
from frostline.strategies.finetune import Finetune
from frostline.strategies.joint import Cumulative, Joint
from frostline.strategies.lwf import LwF
from frostline.strategies.packnet import PackNet
from frostline.strategies.replay import Replay
from frostline.strategies.slda import SLDA

__all__ = [
    "ERACE", "EWC", "SLDA", "Chain", "ContinualBackprop", "Cumulative", "DERpp", "Finetune", "Grads", "Joint", "LwF", "PackNet",
    "Replay", "Strategy",
]  # fmt: skip
