"""Convolutional networks like DCGAN (arXiv 1511.06434), for square images with sides 4k.

The critic halves the image at least twice, and again while its side is even and above 4. The
smallest map is 4x4 for images of side 64, 32 and 16, 7x7 for side 28, 9x9 for side 36, and 2x2 for
side 8. The generator does the reverse. A 4x4 convolution with stride 2 halves the side exactly.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from wgan_cli.errors import ConfigError
from wgan_cli.models.conditional import ClassLatent, Projection
from wgan_cli.models.normalization import norm2d
from wgan_cli.models.precision import mark_float32, run_in_float32


def _plan(sample_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the image channels, the side of the smallest map and the number of halvings."""
    if len(sample_shape) != 3:
        raise ConfigError(
            f"model=dcgan generates images, and these samples have shape {tuple(sample_shape)}:"
            " type model=mlp."
        )
    channels, height, width = sample_shape
    if height != width or height % 4:
        raise ConfigError(
            f"model=dcgan needs square images whose side is divisible by 4, not"
            f" {height}x{width}: type model=mlp, or resize the data."
        )
    side, halvings = height, 0
    while side % 2 == 0 and (side > 4 or halvings < 2):
        side, halvings = side // 2, halvings + 1
    return channels, side, halvings


def _initialise(network: nn.Module) -> None:
    """Initialise weights with N(0, 0.02), BatchNorm scales with N(1, 0.02) (paper, section 4)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


def _normalised(layer: nn.Module, norm: str, channels: int) -> list[nn.Module]:
    return [layer] if norm == "none" else [layer, norm2d(norm, channels)]


class Generator(nn.Module):
    """Maps latents (batch, latent_dim) to images (batch, channels, side, side) in [-1, 1].

    The largest hidden map has `width` channels, and each smaller map twice as many as the map
    before it. Every layer but the last is followed by the normalisation `norm` (see
    `normalization.norm2d`). With `classes`, a learned embedding of the class extends the latent.
    """

    def __init__(
        self,
        latent_dim: int,
        sample_shape: Sequence[int],
        width: int = 64,
        norm: str = "batch",
        classes: int | None = None,
    ) -> None:
        super().__init__()
        channels, side, halvings = _plan(sample_shape)
        planes = [width * 2**level for level in reversed(range(halvings))]
        # A bias before BatchNorm would be redundant: BatchNorm subtracts the mean.
        bias = norm != "batch"
        self.class_latent = ClassLatent(latent_dim, classes)
        first = nn.ConvTranspose2d(self.class_latent.size, planes[0], side, bias=bias)
        layers = [*_normalised(first, norm, planes[0]), nn.ReLU(inplace=True)]
        for inner, outer in pairwise(planes):
            layer = nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=bias)
            layers += [*_normalised(layer, norm, outer), nn.ReLU(inplace=True)]
        last = nn.ConvTranspose2d(planes[-1], channels, 4, 2, 1)
        self.layers = nn.Sequential(*layers, last, nn.Tanh())
        _initialise(self)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (batch, latent_dim), and labels (batch,) if any, to images."""
        images: Tensor = self.layers(self.class_latent(latent, labels)[:, :, None, None])
        return images


class Critic(nn.Module):
    """Maps images (batch, channels, side, side) to scores (batch,).

    As in DCGAN, every layer but the first and the last is followed by the normalisation `norm`
    (see `normalization.norm2d`). With `classes`, the score also depends on the class, through a
    `conditional.Projection` of the last layer's flattened input.
    """

    def __init__(
        self,
        sample_shape: Sequence[int],
        width: int = 64,
        norm: str = "none",
        classes: int | None = None,
    ) -> None:
        super().__init__()
        channels, side, halvings = _plan(sample_shape)
        planes = [width * 2**level for level in range(halvings)]
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1)]
        layers.append(nn.LeakyReLU(0.2, inplace=True))
        for outer, inner in pairwise(planes):
            layer = nn.Conv2d(outer, inner, 4, 2, 1, bias=norm != "batch")
            layers += [*_normalised(layer, norm, inner), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, mark_float32(nn.Conv2d(planes[-1], 1, side)))
        self.projection = Projection(planes[-1] * side * side, classes)
        _initialise(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images, and labels (batch,) if any, to scores (batch,)."""
        *hidden, last = self.layers
        maps = images
        for layer in hidden:
            maps = layer(maps)
        return self.projection(run_in_float32(last, maps).flatten(), maps.flatten(1), labels)
