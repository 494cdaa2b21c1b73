"""Multilayer perceptrons for images and points (arXiv 1701.07875, section 4.2: 512 wide)."""

import math
from collections.abc import Sequence

from torch import Tensor, nn


def _hidden_layers(inputs: int, width: int, depth: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), nn.ReLU(inplace=True)]
        inputs = width
    return layers


class Generator(nn.Module):
    """Latent (batch, latent_dim) to samples (batch, *sample_shape).

    Images (three axes) end in tanh, so lie in [-1, 1]; points are unbounded.
    """

    def __init__(
        self, latent_dim: int, sample_shape: Sequence[int], width: int = 512, depth: int = 3
    ) -> None:
        super().__init__()
        self.sample_shape = tuple(sample_shape)
        layers = _hidden_layers(latent_dim, width, depth)
        layers.append(nn.Linear(width, math.prod(self.sample_shape)))
        if len(self.sample_shape) == 3:
            layers.append(nn.Tanh())
        self.layers = nn.Sequential(*layers)
        self._initialise()

    def _initialise(self) -> None:
        """Weights that keep the latent's variance (arXiv 1502.01852, equation 10); no biases.

        Under PyTorch's default each layer keeps a sixth of it and the first samples are all but
        equal; a clipped critic then moves them as one, and they stay together.
        """
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        for layer in linear[:-1]:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(linear[-1].weight)
        for layer in linear:
            nn.init.zeros_(layer.bias)

    def forward(self, latent: Tensor) -> Tensor:
        """(batch, latent_dim) to (batch, *sample_shape)."""
        samples: Tensor = self.layers(latent)
        return samples.unflatten(1, self.sample_shape)


class Critic(nn.Module):
    """Samples (batch, *sample_shape) to scores (batch,): no sigmoid, no mean over the batch."""

    def __init__(self, sample_shape: Sequence[int], width: int = 512, depth: int = 3) -> None:
        super().__init__()
        layers = _hidden_layers(math.prod(sample_shape), width, depth)
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, samples: Tensor) -> Tensor:
        """(batch, *sample_shape) to (batch,)."""
        scores: Tensor = self.layers(samples.flatten(1))
        return scores.squeeze(1)
