"""What a sweep says when it is over."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepSummary(Callback):
    """Print its runs side by side, and how to compare them with others."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra when the last run is over, whichever launcher it was."""
        folder = Path(config.hydra.sweep.dir)
        if not any(folder.glob("**/result.json")):
            return
        from frostline.report.compare import summarise

        summarise(folder)
