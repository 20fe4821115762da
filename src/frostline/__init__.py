"""Continual learning with the bill attached."""

__version__ = "0.1.0"
