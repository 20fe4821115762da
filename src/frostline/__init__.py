"""Continual learning with the bill attached.

The public names; everything else may move. They are imported when they are first asked for, so that the command line starts
without torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "run": "app.python",
    "select": "app.python",
    "Result": "report.result",
    "Strategy": "strategies.base",
    "Chain": "strategies.chain",
    "Selector": "selectors.base",
    "Change": "selectors.base",
    "Step": "core.step",
    "Scope": "core.scope",
    "Batch": "core.types",
    "Task": "core.types",
    "TaskStream": "core.types",
    "Suite": "core.types",
    "Buffer": "core.buffers",
    "CostMeter": "costs.meter",
    "TaskCosts": "costs.step",
    "from_tasks": "streams.own",
    "UsageError": "core.checks",
}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return list(_PUBLIC)
    if name not in _PUBLIC:
        raise AttributeError(f"module 'frostline' has no attribute {name!r}")
    return getattr(import_module(f"frostline.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*_PUBLIC, "__version__"]
