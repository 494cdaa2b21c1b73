"""Convolutional networks after DCGAN (arXiv 1511.06434), for any square size divisible by 4.

The image is halved twice, and on while its side is even and above 4: 64, 32 and 16 come down to
4x4, 28 to 7x7, 36 to 9x9, 8 to 2x2. Convolutions are 4x4 with stride 2, so every halving is exact.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from wgan_cli.errors import ConfigError


def _plan(sample_shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, the side of the innermost map and the number of halvings down to it."""
    if len(sample_shape) != 3:
        raise ConfigError(
            f"model=dcgan draws images, and these samples have shape {tuple(sample_shape)}:"
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
    """Weights from N(0, 0.02), BatchNorm scales from N(1, 0.02) (arXiv 1511.06434, section 4)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


class Generator(nn.Module):
    """Latent (batch, latent_dim) to images (batch, channels, side, side) in [-1, 1].

    `width` is the number of channels next to the image; each layer further in has twice as many.
    """

    def __init__(
        self,
        latent_dim: int,
        sample_shape: Sequence[int],
        width: int = 64,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        channels, side, halvings = _plan(sample_shape)
        planes = [width * 2**level for level in reversed(range(halvings))]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent_dim, planes[0], side, bias=not batch_norm)
        ]
        for level, inner in enumerate(planes):
            if batch_norm:
                layers.append(nn.BatchNorm2d(inner))
            layers.append(nn.ReLU(inplace=True))
            last = level == halvings - 1
            outer = channels if last else planes[level + 1]
            # BatchNorm's shift makes a bias before it redundant.
            layers.append(nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=last or not batch_norm))
        self.layers = nn.Sequential(*layers, nn.Tanh())
        _initialise(self)

    def forward(self, latent: Tensor) -> Tensor:
        """(batch, latent_dim) to (batch, channels, side, side)."""
        images: Tensor = self.layers(latent[:, :, None, None])
        return images


class Critic(nn.Module):
    """Images (batch, channels, side, side) to scores (batch,).

    `batch_norm` normalises every layer but the first and the last, as DCGAN does.
    """

    def __init__(
        self, sample_shape: Sequence[int], width: int = 64, batch_norm: bool = False
    ) -> None:
        super().__init__()
        channels, side, halvings = _plan(sample_shape)
        layers: list[nn.Module] = []
        inner = channels
        for level in range(halvings):
            outer = width * 2**level
            normalised = batch_norm and level > 0
            layers.append(nn.Conv2d(inner, outer, 4, 2, 1, bias=not normalised))
            if normalised:
                layers.append(nn.BatchNorm2d(outer))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            inner = outer
        self.layers = nn.Sequential(*layers, nn.Conv2d(inner, 1, side))
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, side, side) to (batch,)."""
        scores: Tensor = self.layers(images)
        return scores.flatten()
