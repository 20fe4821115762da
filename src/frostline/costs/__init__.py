"""The bill: what was measured (meter), how energy is measured (energy), what a step of another kind would cost (step)."""

from frostline.costs.energy import EnergyMeter
from frostline.costs.meter import PHASES, CostMeter, LedgerRow, Prices, totals
from frostline.costs.step import Reference, step_flops

__all__ = ["PHASES", "CostMeter", "EnergyMeter", "LedgerRow", "Prices", "Reference", "step_flops", "totals"]
