"""Spectral normalisation: divides each weight of the critic by its largest singular value."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.parametrize import (
    ParametrizationList,
    is_parametrized,
    register_parametrization,
)

from wgan_cli.constraints.base import LINEAR, Constraint
from wgan_cli.constraints.singular_vectors import leading_left_vectors
from wgan_cli.errors import ConfigError


class SpectralDivision(nn.Module):
    """Maps a weight W, as a matrix (outputs, all other dimensions), to W / |W^T u|.

    The buffer `u` is the leading left singular vector of W, so |W^T u| is the largest singular
    value of W. The gradient treats `u` as a constant, as in arXiv 1802.05957, equation 11: the
    derivative of |W^T u| is u v^T with v = W^T u / |W^T u|. Only `update_vector` and
    `update_vectors_together`, which run after each optimizer step, change `u`.
    `torch.nn.utils.parametrizations.spectral_norm` is not used: it also updates `u` in forward
    passes in train mode, so generator updates change the critic.
    """

    u: Tensor

    def __init__(self, weight: Tensor, outputs_axis: int = 0) -> None:
        super().__init__()
        self.outputs_axis = outputs_axis
        vectors = torch.linalg.svd(self.matrix(weight.detach()), full_matrices=False)[0]
        self.register_buffer("u", vectors[:, 0].clone())

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normalised weight in float32, even under autocast. A weight of 0 stays 0."""
        with torch.autocast(weight.device.type, enabled=False):
            largest = torch.linalg.vector_norm(self.u @ self.matrix(weight))
            return weight / torch.where(largest > 0, largest, 1)

    @torch.no_grad()
    def update_vector(self, weight: Tensor, iterations: int) -> None:
        """Update `u` for a changed weight by Lanczos iterations on W W^T, starting from old `u`.

        `u` becomes the best vector in the span of u, (W W^T) u, ..., (W W^T)^iterations u. The same
        number of power iterations gives only the last of these vectors.
        """
        matrix = self.matrix(weight)
        outputs = len(matrix)
        basis = matrix.new_zeros(min(iterations + 1, outputs), outputs)
        images = matrix.new_zeros(len(basis), matrix.shape[1])
        # Add a small constant: iterations from u alone never reach a direction orthogonal to u.
        vector = self.u + 0.001 * outputs**-0.5
        for index in range(len(basis)):
            # A vector shorter than `least` is rounding error, not a new direction: use 0 instead.
            least = 100 * torch.finfo(vector.dtype).eps * torch.linalg.vector_norm(vector)
            for _ in range(2):
                vector = vector - (basis[:index] @ vector) @ basis[:index]
            basis[index] = _unit(vector, least)
            images[index] = basis[index] @ matrix
            vector = matrix @ images[index]
        # `eigh` raises an error for NaN, so replace NaN here. The NaN guard handles NaN weights.
        gram = (images @ images.mT).nan_to_num(0.0, 0.0, 0.0)
        self.u.copy_(_unit(torch.linalg.eigh(gram)[1][:, -1] @ basis))

    def matrix(self, weight: Tensor) -> Tensor:
        """Return the weight as a matrix (outputs, all other dimensions)."""
        return weight.movedim(self.outputs_axis, 0).flatten(1)


def _unit(vector: Tensor, least: Tensor | float = 0.0) -> Tensor:
    """Return the vector scaled to length 1, or 0 if its length is at most `least`."""
    length = torch.linalg.vector_norm(vector)
    return torch.where(length > least, vector / length, 0)


Divisions = Sequence[tuple[SpectralDivision, Tensor]]


@torch.no_grad()
def update_vectors_together(divisions: Divisions, iterations: int) -> None:
    """Update `u` of several layers, given with their changed weights, by power iterations on W W^T.

    This is the method for CUDA: it never waits for the device. The number of power iterations is
    the smallest power of two that is at least 16 * `iterations`. See `leading_left_vectors` for the
    error. The old `u` has no influence.
    """
    squarings = (16 * iterations - 1).bit_length()
    matrices = [division.matrix(weight) for division, weight in divisions]
    vectors = leading_left_vectors(matrices, squarings)
    torch._foreach_copy_([division.u for division, _ in divisions], vectors)


class SpectralNorm(Constraint):
    """Divides every weight by its largest singular value (arXiv 1802.05957).

    The layers are linear, convolution and embedding layers, and their weights are reshaped to
    matrices (outputs, all other dimensions). A ReLU perceptron of such layers is 1-Lipschitz, up to
    the error of the singular values. With `iterations` = 24 Lanczos iterations after every step,
    this error is 1% per layer at usual learning rates. On CUDA, 24 stands for 512 power iterations,
    and the error is below 1% at any learning rate (see `update_vectors_together`).

    For a convolution, this normalises the kernel and not the map between images: with k x k kernels
    and stride s, the map can increase distances by a factor of ceil(k / s).
    """

    def __init__(self, iterations: int = 24) -> None:
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {iterations}")
        self.iterations = iterations
        self._divisions: tuple[nn.Module, Divisions] | None = None

    def wrap(self, critic: nn.Module) -> nn.Module:
        """Reparametrise the layers and return the critic. The initial singular values are exact.

        Raises `ConfigError` if a weight is already parametrised.
        """
        layers = [m for m in critic.modules() if isinstance(m, (*LINEAR, nn.Embedding))]
        if any(is_parametrized(layer, "weight") for layer in layers):
            raise ConfigError(
                "The critic's weights are already parametrised, which does not work with spectral"
                " normalisation: type constraint=none, or use plain layers."
            )
        for layer in layers:
            axis = 1 if isinstance(layer, _ConvTransposeNd) else 0
            register_parametrization(layer, "weight", SpectralDivision(layer.weight, axis))
        return critic

    def after_step(self, critic: nn.Module) -> None:
        """Update the singular vectors for the new weights."""
        if self._divisions is None or self._divisions[0] is not critic:
            divisions = [
                (module[0], module.original)
                for module in critic.modules()
                if isinstance(module, ParametrizationList)
                and isinstance(module[0], SpectralDivision)
            ]
            self._divisions = (critic, divisions)
        on_cuda = [pair for pair in self._divisions[1] if pair[1].is_cuda]
        if on_cuda:
            update_vectors_together(on_cuda, self.iterations)
        for division, weight in self._divisions[1]:
            if not weight.is_cuda:
                division.update_vector(weight, self.iterations)
