"""How many bytes things hold, and a digest of them."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
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
    many = sum(value.nbytes for value in tensors.values()) > 2**20
    if many:  # hashing lets other threads run: all cores at once
        with ThreadPoolExecutor() as pool:
            own = list(pool.map(digest_of, tensors.values()))
    else:
        own = [digest_of(value) for value in tensors.values()]
    return hashlib.blake2b(repr(list(zip(tensors, own, strict=True))).encode(), digest_size=16).hexdigest()


def digest_of(value: Tensor) -> bytes:
    """Return a digest of a tensor's values."""
    octets = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.blake2b(octets.data, digest_size=16).digest()


def to_device(value: Any, device: torch.device) -> Any:
    """Return nested plain values with their tensors on `device`; random states stay where generators want them."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {k: v if str(k).endswith("generator") else to_device(v, device) for k, v in value.items()}
    return type(value)(to_device(v, device) for v in value) if isinstance(value, list | tuple) else value
