"""Shared pieces: a small real stream, small models, and runs as a user starts them."""

import copy
import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from frostline.core.rng import derive
from frostline.core.step import Step
from frostline.core.types import TaskStream
from frostline.costs import CostMeter
from frostline.costs.flops import FlopCounter
from frostline.loop import training, watching
from frostline.loop.run import Run
from frostline.loop.schedules import Constant
from frostline.loop.settings import TrainerConfig
from frostline.loop.training import run_stream
from frostline.models import mlp
from frostline.selectors import Everything, Selector
from frostline.speed.fast import Fast
from frostline.strategies import Finetune, Strategy
from frostline.streams import from_arrays
from tests import programs

ROOT = programs.ROOT


def assert_as_exact(ours: torch.Tensor, theirs: torch.Tensor, exact: torch.Tensor, name: str = "") -> None:
    """Hold a result against one in double precision: at most 1.5 times as far from it as torch's own way is.

    How far that is depends on the processor's kernels, so no number read off one machine would do.
    """
    own, other = ((t.double() - exact).abs().max() for t in (ours, theirs))
    assert own <= 1.5 * other + 1e-6 * exact.abs().max(), f"{name}: {own:.2e}, torch {other:.2e}"


def a_step(scope: Any = None, task: Any = None, incoming: Any = None) -> Step:
    """Return a step for calling a hook by hand; it has no network to ask."""
    step = Step(scope, task, 1, None)  # type: ignore[arg-type]
    step.incoming = incoming
    return step


@pytest.fixture(autouse=True, scope="session")
def threads():
    """Two, or one where other workers (pytest -n) have the other cores: two that wait for each other take ten times as long."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session")
def digits() -> TaskStream:
    """Real digits, five tasks of two classes, 50 training samples a class, task-incremental."""
    return from_arrays("digits", scenario="task", samples_per_class=50)


def with_states(make: Callable[..., Run]) -> tuple[Run, list[dict[str, Any]]]:
    """Return a run of `make(save=...)` that is complete, and its state at each step, as checkpoints would hold it."""
    states: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watching, "LOOK_EVERY_S", 0.0)
        run = make(save=lambda state: states.append(copy.deepcopy(state)))
        run_stream(run)
    return run, states


@pytest.fixture
def make_run(digits: TaskStream) -> Callable[..., Run]:
    """Return a function that builds a small run; every part can be given."""

    def make(
        strategy: Strategy | None = None,
        selector: Selector | None = None,
        *,
        model: Any = None,
        stream: TaskStream | None = None,
        seed: int = 0,
        optimizer: Any = None,
        schedule: Any = None,
        backend: Any = None,
        save: Any = None,
        **settings: Any,
    ) -> Run:
        stream = stream or digits
        torch.manual_seed(derive(seed, "model"))
        model = (model or partial(mlp, hidden=[32, 32]))(stream.shape, stream.classes)
        torch.manual_seed(derive(seed, "training"))
        reference_steps = settings.pop("reference_steps", 0)
        defaults = {"epochs": 2, "batch_size": 32, "compile": "off", "prefix_cache": "off", "checkpoint_every_s": 0.0}
        trainer = TrainerConfig(**{**defaults, **settings})
        return Run(
            model,
            stream,
            strategy or Finetune(),
            selector or Everything(),
            optimizer or partial(torch.optim.SGD, lr=0.05),
            CostMeter(),
            trainer,
            backend or Fast(trainer),
            seed,
            schedule or Constant(),
            reference_steps,
            save,
        )

    return make


@pytest.fixture(scope="session")
def cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that starts `python run.py ...` in a folder and waits."""

    programs.SERVED.set_forkserver_preload(list(programs.IMPORTED))

    def run(
        folder: Path, *arguments: str, program: str = "run", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        # one thread: two that wait for each other take ten times as long where something else is busy too
        own = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", **environment}
        if not environment:
            return programs.start(folder, program, arguments, own)
        entry = [str(ROOT / "run.py")] if program == "run" else ["-m", "frostline"]  # what is read when Python starts
        command = [sys.executable, *entry, *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, env=own)

    return run


def in_process(*arguments: str) -> tuple[int, str]:
    """Do what `python run.py ...` would, here; return the exit code and what it wrote to stderr."""
    from frostline.app import launch

    errors, threads = io.StringIO(), torch.get_num_threads()
    with redirect_stdout(io.StringIO()), redirect_stderr(errors):
        try:
            launch.main(arguments)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        finally:
            torch.set_num_threads(threads)
    return code, errors.getvalue()


@pytest.fixture
def count_every_step(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Put a counter around every training step from now on; the list holds what each took. Probes are not steps."""
    counts: list[int] = []
    plain = training.take_step

    def watched(*args: Any) -> Any:
        with FlopCounter() as counter:
            result = plain(*args)
        counts.append(counter.total)
        return result

    monkeypatch.setattr(training, "take_step", watched)
    return counts


def wandb_records(path):
    """Yield the records of a .wandb file: LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    raw, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        if 32768 - at % 32768 < 7:  # a record's head never crosses the end of a block
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6]
        whole += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show what the campaign counted, at the end, whichever process it was counted in."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, text in getattr(report, "user_properties", ()):
                if name == "count" and report.when == "call":
                    terminalreporter.write_line(text)
