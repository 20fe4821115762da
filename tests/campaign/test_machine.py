"""Machines that break: full disks, read-only ones, too little memory, workers that die, signals anywhere, clocks that jump."""

import errno
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from frostline.records import checkpoints
from tests.campaign.children import QUIET, run, start, until, wait
from tests.campaign.conftest import SEED
from tests.campaign.test_kills import DIGITS, outcome, photos

pytestmark = pytest.mark.slow


def log(folder: Path) -> str:
    return (folder / "log.txt").read_text()


def one_message(folder: Path, *patterns: str) -> None:
    """The run said what was wrong in a line of its own, and nothing of Python's."""
    text = log(folder)
    assert "Traceback" not in text, text
    for pattern in patterns:
        assert re.search(pattern, text), text


@pytest.fixture
def small_disk(tmp_path):
    """Yield a disk of 6 MiB; skip where nothing may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


RUN = (*DIGITS, "strategy=[replay,ewc]", "strategy.ewc.samples=30", *QUIET)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as f, suppress(OSError):
        while True:
            f.write(bytes(4096))


def test_a_disk_that_is_full_in_the_middle(small_disk, tmp_path, said):
    torch.set_num_threads(1)
    assert run(tmp_path / "whole", *RUN, "hydra.run.dir=run")[0] == 0
    folder = tmp_path / "here"
    child = start(folder, *RUN, f"hydra.run.dir={small_disk}/run")
    assert until(lambda: (small_disk / "run" / "checkpoint.pt").is_file())
    fill(small_disk)
    assert wait(child) == 1, log(folder)
    one_message(folder, "could not be written .No space left on device", "resume=")
    checkpoints.load(small_disk / "run")
    (small_disk / "filler").unlink()
    assert run(folder, f"resume={small_disk}/run")[0] == 0, log(folder)
    assert outcome(small_disk / "run") == outcome(tmp_path / "whole" / "run")
    said("a full disk: one message, the last checkpoint whole, resumed equal")


def test_a_disk_that_becomes_read_only(tmp_path, monkeypatch, said):
    torch.set_num_threads(1)
    assert run(tmp_path / "whole", *RUN, "hydra.run.dir=run")[0] == 0
    count, plain = iter(range(10**9)), os.replace

    def replace(*args):
        if next(count) > 8:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)  # the child has it too
        assert run(tmp_path / "here", *RUN, "hydra.run.dir=run")[0] == 1
    one_message(tmp_path / "here", "could not be written .Read-only file system", "resume=")
    assert run(tmp_path / "here", "resume=run")[0] == 0
    assert outcome(tmp_path / "here" / "run") == outcome(tmp_path / "whole" / "run")
    said("a read-only disk: one message, the last checkpoint whole, resumed equal")


def test_too_little_memory_is_one_message(tmp_path, said):
    folder = tmp_path / "run"
    folder.mkdir()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
        os._exit(wait(start(folder, *DIGITS, *QUIET, "model.hidden=[40000,40000]", "hydra.run.dir=run")))
    assert wait(child) == 1, log(folder)
    one_message(folder, "not enough memory|out of memory|allocate memory")
    said("too little memory: one message")


def test_a_worker_that_dies_is_one_message(tmp_path, said):
    photos(tmp_path / "photos")
    folder = tmp_path / "run"
    child = start(
        folder, "stream=image_folder", "stream.data_root=../photos", "stream.tasks=2", "stream.image_size=12",
        "stream.workers=1", "model=cnn", "trainer.epochs=200", "trainer.batch_size=4", *QUIET, "hydra.run.dir=run",
    )  # fmt: skip
    assert until(lambda: (folder / "run" / "checkpoint.pt").is_file())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and os.waitpid(child, os.WNOHANG) == (0, 0):
        for pid in Path(f"/proc/{child}/task/{child}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.01)
    one_message(folder, "worker")
    said("a worker that dies: one message")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_in_any_phase_ends_with_a_message_and_goes_on(number, tmp_path, times, said):
    torch.set_num_threads(1)
    code, took = run(tmp_path / "whole", *RUN, "hydra.run.dir=run")
    assert code == 0
    wanted, draw, count = outcome(tmp_path / "whole" / "run"), random.Random(f"{SEED} {number}"), times(5, 50)
    for _ in range(count):
        folder = tmp_path / "stopped"
        child = start(folder, *RUN, "hydra.run.dir=run")
        time.sleep(draw.uniform(0.1, 1.0) * took)
        os.kill(child, number)
        code = wait(child)
        assert code in (0, 128 + number, -number), log(folder)
        if code > 0:
            one_message(folder)
        begun = (folder / "run" / ".hydra" / "overrides.yaml").is_file()  # before, its settings are not all written
        again = ("resume=run",) if begun else (*RUN, "hydra.run.dir=run")
        assert run(folder, *again)[0] == 0, log(folder)
        assert outcome(folder / "run") == wanted
        shutil.rmtree(folder)
    said(f"{number.name} at any moment: {count} of {count} equal after going on")


def test_wandb_files_that_a_kill_cut_short(tmp_path, times, said):
    arguments = [a for a in RUN if not a.startswith("tracking")] + ["tracking=wandb"]
    code, took = run(tmp_path / "whole", *arguments, "hydra.run.dir=run")
    assert code == 0, log(tmp_path / "whole")
    draw, count = random.Random(SEED), times(2, 10)
    for number in range(count):
        folder = tmp_path / f"killed {number}"
        child = start(folder, *arguments, "hydra.run.dir=run")
        time.sleep(draw.uniform(0.5, 1.0) * took)
        os.kill(child, signal.SIGKILL)
        wait(child)
        assert run(folder, "resume=run")[0] == 0, log(folder)
        assert outcome(folder / "run") == outcome(tmp_path / "whole" / "run")
    said(f"W&B's files cut short: {count} of {count} went on")


def test_a_clock_that_jumps_changes_nothing(tmp_path, said):
    """What is measured goes by a clock that cannot be set."""
    torch.set_num_threads(1)
    assert run(tmp_path / "whole", *RUN, "hydra.run.dir=run")[0] == 0
    jumps, plain = iter(range(10**9)), time.time
    try:
        time.time = lambda: 1e9 - 86400.0 * next(jumps)  # a day back each time that somebody looks
        assert run(tmp_path / "jumped", *RUN, "hydra.run.dir=run")[0] == 0, log(tmp_path / "jumped")
    finally:
        time.time = plain
    assert outcome(tmp_path / "jumped" / "run") == outcome(tmp_path / "whole" / "run")
    said("a clock that jumps: equal")
