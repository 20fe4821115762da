"""Runs in child processes that are forked from one with everything imported: a kill costs the run, not the imports."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

QUIET = (
    "tracking=none", "figures=[]", "cost.reference_steps=0", "trainer.threads=1", "trainer.checkpoint_every_s=0.02",
)  # fmt: skip


def start(folder: Path, *arguments: str, log: str = "log.txt") -> int:
    """Start what `python run.py ...` would do in `folder`; return the process."""
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.chdir(folder)
        handle = os.open(folder / log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = sys.stderr = open(handle, "w", buffering=1, encoding="utf-8")  # noqa: SIM115 - to the end; pytest has others
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        from frostline.app import launch
        from frostline.loop import watching

        watching.LOOK_EVERY_S = 0.03  # runs are short here
        launch.main(list(arguments))
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return 0


def wait(child: int, seconds: float = 300.0) -> int:
    """Wait for the child; return its exit code, minus the signal's number where one ended it, -999 where it hangs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -999


def run(folder: Path, *arguments: str, seconds: float = 300.0) -> tuple[int, float]:
    """Start it and wait; return the exit code and how long it took."""
    begin = time.monotonic()
    return wait(start(folder, *arguments), seconds), time.monotonic() - begin


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait for something to be so; tell whether it came."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.003)
    return True
