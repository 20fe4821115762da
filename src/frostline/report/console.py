"""Where tables are printed."""

from rich.console import Console


def wide_console() -> Console:
    """Return the terminal, or 120 columns where the output goes into a file or a pipe."""
    console = Console()
    if not console.is_terminal:
        console.width = 120
    return console
