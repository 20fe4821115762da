"""How many bytes things hold."""

from typing import Any

from torch import Tensor


def tensor_bytes(value: Any) -> int:
    """Return the bytes of every tensor in nested dictionaries and lists; random states do not count."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(tensor_bytes(v) for k, v in value.items() if not str(k).endswith("generator"))
    return sum(map(tensor_bytes, value)) if isinstance(value, list | tuple) else 0
