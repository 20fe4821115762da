"""How many bytes tensors hold, a digest of them, and steps of many at once."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
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


def lerp_each(into: Sequence[Tensor], values: Sequence[Tensor], share: float) -> None:
    """Move each tensor in place by `share` of the way to its value, in one call."""
    torch._foreach_lerp_(list(into), list(values), share)  # type: ignore[attr-defined]


def add_products(into: Sequence[Tensor], a: Sequence[Tensor], b: Sequence[Tensor], scale: float) -> None:
    """Add scale * a * b to each tensor in place, in one call."""
    torch._foreach_addcmul_(list(into), list(a), list(b), value=scale)  # type: ignore[attr-defined]


def differences(a: Sequence[Tensor], b: Sequence[Tensor], scale: float = 1.0) -> list[Tensor]:
    """Return a - scale * b of each pair, in one call."""
    return list(torch._foreach_sub(list(a), list(b), alpha=scale))  # type: ignore[attr-defined]


def products(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """Return a * b of each pair, in one call."""
    return list(torch._foreach_mul(list(a), list(b)))  # type: ignore[attr-defined]


def flags(places: Iterable[int], like: Tensor) -> Tensor:
    """Return which of the first dimension's places of `like` are among these, bool [len(like)]."""
    found = torch.zeros(len(like), dtype=torch.bool, device=like.device)
    found[list(places)] = True
    return found


def smallest(values: Tensor, among: Tensor, share: float) -> Tensor:
    """Return which of the values marked in `among` are the `share` smallest by their size, bool of the same shape."""
    places = among.flatten().nonzero().squeeze(1)
    found = torch.zeros_like(among).flatten()
    found[places[values.flatten()[places].abs().argsort()[: round(share * len(places))]]] = True
    return found.view_as(among)
