"""python -m frostline is the `frostline` command."""

from frostline.cli import main

main()
