"""A critic that is 1-Lipschitz by construction (arXiv 1811.05381).

Linear layers with orthonormal rows or columns never increase a distance, MaxMin only reorders
numbers, and the score is a product with a unit vector. So |f(x) - f(y)| <= |x - y| in the Euclidean
norm for any values of the parameters. These layers also preserve the norm of most gradients, so the
critic can reach slope 1. ReLU networks with bounded weights cannot.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from wgan_cli.errors import ConfigError
from wgan_cli.models.precision import mark_float32, run_in_float32


class Orthonormal(nn.Module):
    """Maps a matrix (out, in) to one with orthonormal rows, or orthonormal columns if out > in.

    This is the Cayley map for rectangular matrices. For a wide W = [U V] with U square, let
    A = U - U^T + V V^T and B = (I + A)^-1; then the rows of [2B - I, 2BV] are orthonormal. A tall W
    is transposed first. No singular value of I + A is below 1, so B stays accurate during training.

    `torch.nn.utils.parametrizations.orthogonal` is not used: with 784 inputs it takes 10 to 100
    times as long, because it works column by column or on a larger square matrix.
    """

    def forward(self, free: Tensor) -> Tensor:
        """Map `free` (out, in) to an orthonormal matrix of float32 numbers, even under autocast."""
        with torch.autocast(free.device.type, enabled=False):
            if free.shape[0] > free.shape[1]:
                return _orthonormal_rows(free.mT).mT
            return _orthonormal_rows(free)


def _orthonormal_rows(free: Tensor) -> Tensor:
    rows = len(free)
    square, rest = free[:, :rows], free[:, rows:]
    identity = torch.eye(rows, dtype=free.dtype, device=free.device)
    # The matrix is singular only through rounding of huge weights. The result is then NaN, which
    # the NaN guard handles. `inv` would raise instead, and would make the CPU wait for the GPU.
    inverse, fault = torch.linalg.inv_ex(identity + square - square.mT + rest @ rest.mT)
    twice = 2 * inverse.where(fault == 0, torch.nan)
    return torch.cat([twice - identity, twice @ rest], dim=1)


class MaxMin(nn.Module):
    """GroupSort with groups of two: units i and i + width/2 become their maximum and minimum."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the sorted units, (batch, width)."""
        first, second = hidden.chunk(2, dim=1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], dim=1)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight)
    # At this scale, biases are as large as the outputs for inputs of norm 1, so MaxMin swaps units
    # for some samples and not for others.
    nn.init.uniform_(layer.bias, -1 / math.sqrt(outputs), 1 / math.sqrt(outputs))
    register_parametrization(layer, "weight", Orthonormal())
    return layer


class Critic(nn.Module):
    """Maps samples (batch, *sample_shape) to scores (batch,), 1-Lipschitz in the Euclidean norm.

    The critic has `depth` hidden layers of `width` units with MaxMin; the weight of its last layer
    is a unit vector. Raises `ConfigError` for an odd width. Every forward pass computes the
    orthonormal weights; `torch.nn.utils.parametrize.cached()` computes them once for many passes.
    """

    # Evaluations use this constant instead of measuring the steepest slope.
    lipschitz_constant = 1.0

    def __init__(self, sample_shape: Sequence[int], width: int = 128, depth: int = 3) -> None:
        super().__init__()
        if width % 2:
            raise ConfigError(
                f"model.critic.width={width} is odd, but MaxMin sorts hidden units in pairs: type"
                f" model.critic.width={width + 1}."
            )
        inputs = math.prod(sample_shape)
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [_linear(inputs, width), MaxMin()]
            inputs = width
        self.layers = nn.Sequential(*layers, mark_float32(_linear(inputs, 1)))

    def forward(self, samples: Tensor) -> Tensor:
        """Map samples (batch, *sample_shape) to scores (batch,)."""
        *hidden, last = self.layers
        features = samples.flatten(1)
        for layer in hidden:
            features = layer(features)
        return run_in_float32(last, features).squeeze(1)
