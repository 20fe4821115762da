"""Which parameters thaw for a task: one rule a file."""

from frostline.selectors.autofreeze import AutoFreeze
from frostline.selectors.badam import BAdam
from frostline.selectors.base import Change, Selector
from frostline.selectors.budget import Budget
from frostline.selectors.depth import Everything, ExceptFirstK, FirstK, HeadOnly, LastK
from frostline.selectors.freezeout import FreezeOut
from frostline.selectors.lisa import LISA
from frostline.selectors.llama_pro import LlamaPro
from frostline.selectors.lora import LoRA
from frostline.selectors.pattern import Pattern
from frostline.selectors.rgn import RelativeGradientNorm
from frostline.selectors.roles import Role
from frostline.selectors.snr import SignalToNoise
from frostline.selectors.spectrum import Spectrum
from frostline.selectors.top_gradient import TopGradient

__all__ = [
    "LISA",
    "AutoFreeze",
    "BAdam",
    "Budget",
    "Change",
    "Everything",
    "ExceptFirstK",
    "FirstK",
    "FreezeOut",
    "HeadOnly",
    "LastK",
    "LlamaPro",
    "LoRA",
    "Pattern",
    "RelativeGradientNorm",
    "Role",
    "Selector",
    "SignalToNoise",
    "Spectrum",
    "TopGradient",
]  # fmt: skip
