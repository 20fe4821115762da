"""Embedded data; its licence is beside it."""
