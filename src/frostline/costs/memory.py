"""Peak memory: of a GPU what is allocated, of a CPU what is resident."""

import ctypes
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from frostline.core.checks import UsageError


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    _trim()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts again at the present size
    except OSError:
        return  # elsewhere the mark is the whole process's so far: an upper bound


@lru_cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim  # glibc
    except (OSError, AttributeError):
        return None


def _trim() -> None:
    """Give back what the allocator keeps of memory that is free, which would count as the next phase's."""
    if trim := _malloc_trim():
        trim(0)


def peak_memory(device: torch.device) -> int:
    """Return peak bytes: allocated on a GPU, resident (the whole process) on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def needs_room(what: str, size: int, device: torch.device, instead: str) -> None:
    """Raise UsageError where so many bytes are not free on the device; `instead` says what was expected."""
    import psutil

    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if size > free:
        raise UsageError(
            f"{what} would take {size / 2**30:.1f} GiB, of {free / 2**30:.1f} GiB free. Expected {instead}."
        )
