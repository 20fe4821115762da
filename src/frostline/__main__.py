"""python -m frostline is the `frostline` command."""

from frostline.app.cli import main

main()
