"""How many bytes things hold, and a digest of them."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def tensor_bytes(value: Any) -> int:
    """Return the bytes of every tensor in nested dictionaries and lists; random states do not count."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(tensor_bytes(v) for k, v in value.items() if not str(k).endswith("generator"))
    return sum(map(tensor_bytes, value)) if isinstance(value, list | tuple) else 0


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of the names and the values."""
    total = hashlib.blake2b(digest_size=16)
    for name, value in tensors.items():
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def to_device(value: Any, device: torch.device) -> Any:
    """Return nested plain values with their tensors on `device`; random states stay where generators want them."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {k: v if str(k).endswith("generator") else to_device(v, device) for k, v in value.items()}
    return type(value)(to_device(v, device) for v in value) if isinstance(value, list | tuple) else value
