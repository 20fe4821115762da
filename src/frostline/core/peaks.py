"""What devices can do at most, by their makers' data sheets, without sparsity."""

import re

PRECISIONS = ("float32", "tf32", "bfloat16")
PEAKS = {  # a word of the device's name: TFLOP/s in each precision; more special names come first
    "B200": (75.0, 1125.0, 2250.0),
    "H200": (67.0, 494.7, 989.4),
    "H100 NVL": (60.0, 417.5, 835.5),
    "H100 PCIe": (51.0, 378.0, 756.5),
    "H100": (67.0, 494.7, 989.4),
    "A100": (19.5, 156.0, 312.0),
    "L40S": (91.6, 183.0, 362.0),
    "L4": (30.3, 60.0, 121.0),
    "A10": (31.2, 62.5, 125.0),
    "RTX 4090": (82.6, 82.6, 165.2),
    "RTX 3090": (35.6, 35.6, 71.0),
}


def peak(device: str, precision: str) -> float | None:
    """Return the operations a second that a device of this name reaches at most; None where it is not known.

    trainer.precision=float32 is without tensor cores.
    """
    found = next((values for word, values in PEAKS.items() if re.search(rf"\b{word}\b", device)), None)
    return None if found is None else 1e12 * found[PRECISIONS.index(precision)]


def utilisation(flops: float, seconds: float, device: str, precision: str) -> float | None:
    """Return which share of the device's peak executed operations are; None where the peak is not known.

    Where nothing is computed twice (trainer.activation_checkpointing) it is the model FLOPs utilisation of Chowdhery et al.
    2022 (arXiv 2204.02311), of what learning executed: a frozen layer's gradient is no operation.
    """
    most = peak(device, precision)
    return flops / seconds / most if most and seconds else None
