"""The bill: what was measured (meter), how energy is measured (energy), what a step of another kind would cost (step)."""

from frostline.costs.energy import EnergyMeter
from frostline.costs.meter import PHASES, CostMeter, LedgerRow, Prices, all_paused, totals
from frostline.costs.reference import Reference
from frostline.costs.step import StepCosts, TaskCosts

__all__ = [
    "PHASES", "CostMeter", "EnergyMeter", "LedgerRow", "Prices", "Reference", "StepCosts", "TaskCosts", "all_paused",
    "totals",
]  # fmt: skip
