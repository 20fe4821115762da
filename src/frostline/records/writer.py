"""What writes a run's result.json and spreadsheets while it goes on."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from frostline.core.checks import UsageError
from frostline.core.files import atomic_write
from frostline.core.structure import everything, packed_layers
from frostline.loop.run import Observer, Run
from frostline.records import results


class ResultWriter(Observer):
    """Write result.json and its spreadsheets at the start and after every task."""

    def __init__(self, folder: Path, config: dict[str, Any]):
        self.folder = folder
        self.config = config
        self.written = self.took = 0.0  # when it was written last, and in how many seconds

    def started(self, run: Run) -> None:
        """Check for room, for two checkpoints with an optimizer that keeps two values a weight, and say `running`."""
        needed = 2**22 + 2 * 3 * sum(p.nbytes for p in run.model.parameters())
        if shutil.disk_usage(self.folder).free < needed:
            raise UsageError(
                f"{self.folder}: less than {needed / 2**20:.0f} MiB are free on this disk; results and checkpoints may need it."
            )
        self.write(run, "running")

    def task_done(self, run: Run, index: int) -> None:
        """Write what is known after task `index`, unless that was done a moment ago: it all grows with the tasks."""
        if time.monotonic() - self.written >= max(1.0, 100 * self.took):
            self.write(run, "running")

    def write(self, run: Run, status: str, error: str | None = None) -> dict[str, Any]:
        """Write and return the result as it stands."""
        begin = time.monotonic()
        content = contents_of(run, self.config, status, error)
        if run.progress.answers:
            with atomic_write(self.folder / results.ANSWERS) as f:
                f.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in run.progress.answers)
        results.write(self.folder, content)
        self.written, self.took = time.monotonic(), time.monotonic() - begin
        return content


def contents_of(run: Run, config: dict[str, Any], status: str, error: str | None = None) -> dict[str, Any]:
    """Return what result.json holds of a run as it stands."""
    sizes = {row.trainable_parameters for row in run.meter.rows if row.phase == "train"}
    whole = not packed_layers(run.model) and sizes <= {
        sum(p.numel() for n, p in run.model.named_parameters() if n in everything(run.model))
    }
    return results.result(
        status=status,
        config=config,
        device=run.device,
        stream=run.stream,
        progress=run.progress,
        meter=run.meter,
        full=results.against_full(run.meter, run.progress, whole),
        error=error,
        prefix_cache=run.backend.notes,
        data=run.data,
    )
