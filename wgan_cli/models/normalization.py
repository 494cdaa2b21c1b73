"""Normalisation of feature maps, by name."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MOST_GROUPS = 32
_FEWEST_CHANNELS = 8


def norm2d(kind: str, channels: int, *, affine: bool = True) -> nn.Module:
    """A layer on maps (batch, channels, height, width), with a scale and a shift per channel.

    `batch` normalises each channel over the batch (arXiv 1502.03167); `layer` each sample over all
    of its maps, as the critics of arXiv 1704.00028, section 4 (arXiv 1607.06450); `group` each
    sample over groups of channels (arXiv 1803.08494): at most 32 groups of equal size, of 8 or more
    channels where there are as many; `none` changes nothing. Without `affine` there is neither
    scale nor shift. Raises `ValueError` for another kind.
    """
    if kind == "none":
        return nn.Identity()
    if kind == "batch":
        return nn.BatchNorm2d(channels, affine=affine)
    if kind == "layer":
        return nn.GroupNorm(1, channels, affine=affine)
    if kind == "group":
        return nn.GroupNorm(_groups(channels), channels, affine=affine)
    raise ValueError(f"norm must be none, batch, layer or group, not {kind}.")


def _groups(channels: int) -> int:
    most = max(1, min(_MOST_GROUPS, channels // _FEWEST_CHANNELS))
    return next(count for count in range(most, 0, -1) if channels % count == 0)


class ClassNorm2d(nn.Module):
    """A normalisation whose scale and shift are those of the sample's class (arXiv 1610.07629).

    Scales start from 1 and shifts from 0, so that all classes start equal. Under `none` the class
    scales and shifts maps that nothing normalised.
    """

    def __init__(self, kind: str, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = norm2d(kind, channels, affine=False)
        self.scale = nn.Parameter(torch.ones(classes, channels))
        self.shift = nn.Parameter(torch.zeros(classes, channels))

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        """(batch, channels, height, width) and labels (batch,) to maps of the same shape."""
        scale = F.embedding(labels, self.scale)[:, :, None, None]
        shift = F.embedding(labels, self.shift)[:, :, None, None]
        return scale * self.norm(maps) + shift
