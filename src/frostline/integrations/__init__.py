"""Frostline inside other people's loops: our selectors, strategies and meter as callbacks and plugins of theirs."""
