"""Where tables are printed."""

import io
import sys
from pathlib import Path

from rich.console import Console


def program() -> str:
    """Return what was typed to start this program: python run.py in a checkout, frostline run elsewhere."""
    name = Path(sys.argv[0]).name
    return f"python {sys.argv[0]}" if name.endswith(".py") and name != "__main__.py" else "frostline run"


def plainly() -> None:
    """Let a terminal that lacks a sign (a frame, an umlaut) show another one in its place instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def wide_console() -> Console:
    """Return the terminal, or 120 columns where the output goes into a file or a pipe."""
    console = Console()
    if not console.is_terminal:
        console.width = 120
    return console
