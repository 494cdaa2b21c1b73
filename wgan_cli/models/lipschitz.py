"""A critic that is 1-Lipschitz by construction (arXiv 1811.05381).

Linear layers with orthonormal rows or columns never lengthen a difference, MaxMin only reorders
numbers, and the score is a product with a unit vector: |f(x) - f(y)| <= |x - y| in the Euclidean
norm, whatever the optimizer did. Both kinds of layers also keep the length of most gradients, so
that slope 1 can be reached, which ReLU networks under a bound on their weights cannot.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from wgan_cli.errors import ConfigError
from wgan_cli.models.precision import mark_float32, run_in_float32


class Orthonormal(nn.Module):
    """A free matrix (out, in) to one with orthonormal rows, or columns where out > in.

    Cayley's map for rectangles: of a wide W = [U V] with U square, A = U - U^T + V V^T and
    B = (I + A)^-1, the rows of [2B - I, 2BV] are orthonormal; a tall W is turned over first. I + A
    has no singular value below 1, so B is exact to rounding however long the training was.

    `torch.nn.utils.parametrizations.orthogonal` completes a rectangle to a square, or works column
    by column; on 784 inputs that takes 10 to 100 times as long.
    """

    def forward(self, free: Tensor) -> Tensor:
        """(out, in) to (out, in), in float32 under autocast too."""
        with torch.autocast(free.device.type, enabled=False):
            if free.shape[0] > free.shape[1]:
                return _orthonormal_rows(free.mT).mT
            return _orthonormal_rows(free)


def _orthonormal_rows(free: Tensor) -> Tensor:
    rows = len(free)
    square, rest = free[:, :rows], free[:, rows:]
    one = torch.eye(rows, dtype=free.dtype, device=free.device)
    # Only weights that rounding cannot hold together make this singular: NaN then says so, where
    # inv would raise, and make the host wait for a GPU to know.
    inverse, fault = torch.linalg.inv_ex(one + square - square.mT + rest @ rest.mT)
    twice = 2 * inverse.where(fault == 0, torch.nan)
    return torch.cat([twice - one, twice @ rest], dim=1)


class MaxMin(nn.Module):
    """GroupSort in groups of two: unit i and unit i + width/2 become their larger and smaller."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, width) to (batch, width)."""
        first, second = hidden.chunk(2, dim=1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], dim=1)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight)
    # The size of one output for inputs of length 1: some pairs of MaxMin then cross among the data.
    nn.init.uniform_(layer.bias, -1 / math.sqrt(outputs), 1 / math.sqrt(outputs))
    register_parametrization(layer, "weight", Orthonormal())
    return layer


class Critic(nn.Module):
    """Samples (batch, *sample_shape) to scores (batch,), 1-Lipschitz in the Euclidean norm.

    `depth` hidden layers of `width` with MaxMin, and a unit row to the score. Raises `ConfigError`
    for an odd width. Every forward pass makes the weights anew; loops without updates go faster
    under `torch.nn.utils.parametrize.cached()`.
    """

    # A bound for all pairs of samples: an estimate by this critic needs no measured slope.
    lipschitz_constant = 1.0

    def __init__(self, sample_shape: Sequence[int], width: int = 128, depth: int = 3) -> None:
        super().__init__()
        if width % 2:
            raise ConfigError(
                f"model.critic.width={width} is odd, and MaxMin sorts hidden units in pairs: type"
                f" model.critic.width={width + 1}."
            )
        inputs = math.prod(sample_shape)
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [_linear(inputs, width), MaxMin()]
            inputs = width
        self.layers = nn.Sequential(*layers, mark_float32(_linear(inputs, 1)))

    def forward(self, samples: Tensor) -> Tensor:
        """(batch, *sample_shape) to (batch,)."""
        *hidden, last = self.layers
        features = samples.flatten(1)
        for layer in hidden:
            features = layer(features)
        return run_in_float32(last, features).squeeze(1)
