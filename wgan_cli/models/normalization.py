"""Normalisation layers for feature maps."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MAX_GROUPS = 32
_MIN_CHANNELS_PER_GROUP = 8


def norm2d(kind: str, channels: int, *, affine: bool = True) -> nn.Module:
    """Return a normalisation layer for maps (batch, channels, height, width).

    - `batch` normalises each channel over the batch (arXiv 1502.03167).
    - `layer` normalises each sample over all channels (arXiv 1607.06450), as in the critics of
      arXiv 1704.00028, section 4.
    - `group` normalises each sample over groups of channels (arXiv 1803.08494): at most 32 groups
      of equal size, with at least 8 channels each if possible.
    - `none` changes nothing.

    With `affine`, a scale and a shift per channel are learned. Raises `ValueError` for other kinds.
    """
    if kind == "none":
        return nn.Identity()
    if kind == "batch":
        return nn.BatchNorm2d(channels, affine=affine)
    if kind == "layer":
        return nn.GroupNorm(1, channels, affine=affine)
    if kind == "group":
        most = max(1, min(_MAX_GROUPS, channels // _MIN_CHANNELS_PER_GROUP))
        groups = next(count for count in range(most, 0, -1) if channels % count == 0)
        return nn.GroupNorm(groups, channels, affine=affine)
    raise ValueError(f"norm must be none, batch, layer or group, not {kind}.")


class ClassNorm2d(nn.Module):
    """A normalisation with a scale and a shift per class and channel (arXiv 1610.07629).

    Scales start at 1 and shifts at 0, so all classes start equal. With the kind `none`, maps are
    scaled and shifted without being normalised.
    """

    def __init__(self, kind: str, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = norm2d(kind, channels, affine=False)
        self.scale = nn.Parameter(torch.ones(classes, channels))
        self.shift = nn.Parameter(torch.zeros(classes, channels))

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return the normalised maps (batch, channels, height, width), for labels (batch,)."""
        scale = F.embedding(labels, self.scale)[:, :, None, None]
        shift = F.embedding(labels, self.shift)[:, :, None, None]
        return scale * self.norm(maps) + shift
