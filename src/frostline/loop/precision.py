"""How many bits the products of a forward and backward pass have (trainer.precision)."""

from contextlib import AbstractContextManager, nullcontext

import torch

from frostline.core.checks import UsageError, one_of

PRECISIONS = ("float32", "tf32", "bfloat16")


def set_precision(precision: str, device: torch.device) -> None:
    """Say what a GPU does with float32 products: all bits, or 10 of the mantissa's 23 (tf32).

    torch's own default rounds convolutions and not matrix products; here float32 is float32. UsageError where tf32 is asked
    for and no GPU has it.
    """
    one_of("trainer.precision", precision, PRECISIONS)
    if precision == "tf32" and not (device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)):
        raise UsageError(
            f"trainer.precision=tf32 on {device.type}: expected a CUDA device of compute capability 8.0 or later. "
            "The nearest valid values are float32 and bfloat16."
        )
    # torch's older switches: with the newer ones torch refuses to say whether tf32 is allowed, which torch.export asks.
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def slow_here(precision: str, device: torch.device) -> bool:
    """Tell whether this processor has to imitate bfloat16 products, several times slower than float32 ones."""
    can = torch.cpu.get_capabilities()
    imitates = can.get("architecture") == "x86_64" and not (can.get("amx_bf16") or can.get("avx512_bf16"))
    return precision == "bfloat16" and device.type == "cpu" and imitates


def casting(precision: str, device: torch.device) -> AbstractContextManager:
    """Return what a forward pass runs in: weights stay float32, and bfloat16 products are taken of rounded copies."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
