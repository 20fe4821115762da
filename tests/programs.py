"""Programs as a user starts them, in processes of their own that need not import everything anew: torch takes seconds."""

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORTED = (
    "torch",
    "hydra",
    "matplotlib.figure",
    "frostline.app.launch",
    "frostline.app.cli",
    "frostline.app.job",
    "tests.programs",
)
SERVED = multiprocessing.get_context("forkserver")


def start(
    folder: Path, program: str, arguments: tuple[str, ...], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run `python run.py` or `frostline` in a folder and wait for it."""
    entry = str(ROOT / "run.py") if program == "run" else str(ROOT / "src/frostline/__main__.py")
    with tempfile.TemporaryDirectory() as kept:
        out, err = Path(kept) / "out", Path(kept) / "err"
        argv = [entry, *map(str, arguments)]
        process = SERVED.Process(target=_be, args=(str(folder), argv, environment, str(out), str(err)))
        process.start()
        process.join(900)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(argv, 900)
        return subprocess.CompletedProcess(argv, process.exitcode, out.read_text("utf-8"), err.read_text("utf-8"))


def _be(folder: str, argv: list[str], environment: dict[str, str], out: str, err: str) -> None:
    """Become the program: its folder, environment, arguments and output."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, out), (2, err)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    import torch  # imported by the server, under its own environment

    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.argv = argv
    code: object = 1
    try:
        importlib.import_module("frostline.app.launch" if argv[0].endswith("run.py") else "frostline.app.cli").main()
        code = 0
    except SystemExit as stop:
        code = 0 if stop.code is None else stop.code
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    raise SystemExit(code)
