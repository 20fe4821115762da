"""Random changes to training images, on the device, for a whole batch at once."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from frostline.core.checks import UsageError, one_of

KINDS = ("flip", "crop")
PAD = 4


class Augmentation:
    """Turn images [B, C, H, W] into random variants of themselves, each sample its own.

    'flip' mirrors half of them left to right; 'crop' shifts each by up to 4 pixels, black coming in (He et al. 2016,
    arXiv 1512.03385). Numbers come from torch's global generator, as dropout's do.
    """

    def __init__(self, kinds: Sequence[str]):
        for kind in kinds:
            one_of("trainer.augment", kind, KINDS)
        self.kinds = tuple(kinds)

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the batch anew; UsageError for samples that are no images."""
        if self.kinds and x.ndim != 4:
            raise UsageError(
                f"trainer.augment={list(self.kinds)} needs images, not samples of shape {list(x.shape[1:])}."
            )
        if "flip" in self.kinds:
            turned = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
            x = torch.where(turned, x.flip(3), x)
        return self._crop(x) if "crop" in self.kinds else x

    def _crop(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        black = x.amin(dim=(0, 2, 3), keepdim=True)  # the darkest value there is: pixels may be standardised
        padded = F.pad(x - black, (PAD,) * 4) + black
        top, left = (torch.randint(2 * PAD + 1, (count, 1, 1, 1), device=x.device) for _ in range(2))
        rows = (top + torch.arange(height, device=x.device).view(1, 1, -1, 1)).expand(-1, channels, -1, padded.shape[3])
        columns = (left + torch.arange(width, device=x.device)).expand(-1, channels, height, -1)
        return padded.gather(2, rows).gather(3, columns)
