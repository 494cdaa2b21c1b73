"""Multilayer perceptrons for images and points (arXiv 1701.07875, section 4.2)."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from wgan_cli.models.conditional import ClassLatent, Projection
from wgan_cli.models.precision import mark_float32, run_in_float32


def _hidden_layers(inputs: int, width: int, depth: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), nn.ReLU(inplace=True)]
        inputs = width
    return layers


class Generator(nn.Module):
    """Maps latents (batch, latent_dim) to samples (batch, *sample_shape).

    Images (three axes) pass through a final tanh and lie in [-1, 1]; points are unbounded. With
    `classes`, a learned embedding of the class is appended to the latent.
    """

    def __init__(
        self,
        latent_dim: int,
        sample_shape: Sequence[int],
        width: int = 512,
        depth: int = 3,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.sample_shape = tuple(sample_shape)
        self.class_latent = ClassLatent(latent_dim, classes)
        layers = _hidden_layers(self.class_latent.size, width, depth)
        layers.append(nn.Linear(width, math.prod(self.sample_shape)))
        if len(self.sample_shape) == 3:
            layers.append(nn.Tanh())
        self.layers = nn.Sequential(*layers)
        # Preserve the latent's variance (arXiv 1502.01852, eq. 10). PyTorch's default divides the
        # variance by six in each layer, so all samples are almost equal at first. A clipped critic
        # then moves them all in the same direction, and they never spread out.
        linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
        for layer in linear[:-1]:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(linear[-1].weight)
        for layer in linear:
            nn.init.zeros_(layer.bias)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (batch, latent_dim), and labels (batch,) if any, to samples."""
        samples: Tensor = self.layers(self.class_latent(latent, labels))
        return samples.unflatten(1, self.sample_shape)


class Critic(nn.Module):
    """Maps samples (batch, *sample_shape) to scores (batch,), without a sigmoid.

    With `classes`, the score also depends on the class (see `conditional.Projection`).
    """

    def __init__(
        self,
        sample_shape: Sequence[int],
        width: int = 512,
        depth: int = 3,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        layers = _hidden_layers(math.prod(sample_shape), width, depth)
        self.layers = nn.Sequential(*layers, mark_float32(nn.Linear(width, 1)))
        self.projection = Projection(width, classes)

    def forward(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map samples, and labels (batch,) if any, to scores (batch,)."""
        *hidden, last = self.layers
        features = samples.flatten(1)
        for layer in hidden:
            features = layer(features)
        return self.projection(run_in_float32(last, features).squeeze(1), features, labels)
