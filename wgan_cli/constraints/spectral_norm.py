"""Spectral normalisation: every weight of the critic is divided by its largest singular value."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.parametrize import (
    ParametrizationList,
    is_parametrized,
    register_parametrization,
)

from wgan_cli.constraints.base import Constraint
from wgan_cli.constraints.layers import LINEAR
from wgan_cli.errors import ConfigError


class SpectralDivision(nn.Module):
    """A weight to W / |W^T u|, W the weight as a matrix (outputs, everything else).

    `u`, a buffer, is W's leading left singular vector, so |W^T u| its largest singular value. It is
    a constant to the gradient, which is that of arXiv 1802.05957, equation 11: u v^T with
    v = W^T u / |W^T u|. A forward pass changes nothing: `follow` does, after an optimizer's step.
    `torch.nn.utils.parametrizations.spectral_norm` iterates in every forward pass in train mode, so
    that an update of the generator, or a look at the critic, would change the critic.
    """

    u: Tensor

    def __init__(self, weight: Tensor, outputs_axis: int = 0) -> None:
        super().__init__()
        self.outputs_axis = outputs_axis
        vectors = torch.linalg.svd(self._matrix(weight.detach()), full_matrices=False)[0]
        self.register_buffer("u", vectors[:, 0].clone())

    def forward(self, weight: Tensor) -> Tensor:
        """The weight in its own shape, in float32 under autocast too; one that is 0 stays 0."""
        with torch.autocast(weight.device.type, enabled=False):
            largest = torch.linalg.vector_norm(self.u @ self._matrix(weight))
            return weight / torch.where(largest > 0, largest, 1)

    @torch.no_grad()
    def follow(self, weight: Tensor, iterations: int) -> None:
        """Let `u` follow a changed weight, by Lanczos iterations on W W^T from where it was.

        `u` becomes the best vector in the span of u, (W W^T) u, ..., (W W^T)^iterations u, where as
        many power iterations give the last of these.
        """
        matrix = self._matrix(weight)
        outputs = len(matrix)
        basis = matrix.new_zeros(min(iterations + 1, outputs), outputs)
        images = matrix.new_zeros(len(basis), matrix.shape[1])
        # A little of something else: a direction that is orthogonal to u would never come up.
        vector = self.u + 0.001 * outputs**-0.5
        for index in range(len(basis)):
            # What is only rounding is no new direction, and would spoil the others.
            least = 100 * torch.finfo(vector.dtype).eps * torch.linalg.vector_norm(vector)
            for _ in range(2):
                vector = vector - (basis[:index] @ vector) @ basis[:index]
            basis[index] = _unit(vector, least)
            images[index] = basis[index] @ matrix
            vector = matrix @ images[index]
        # A NaN is for the training to find; eigh would end the run before.
        gram = (images @ images.mT).nan_to_num(0.0, 0.0, 0.0)
        self.u.copy_(_unit(torch.linalg.eigh(gram)[1][:, -1] @ basis))

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.outputs_axis, 0).flatten(1)


def _unit(vector: Tensor, least: Tensor | float = 0.0) -> Tensor:
    """The vector at length 1, or 0 where it is not longer than `least`."""
    length = torch.linalg.vector_norm(vector)
    return torch.where(length > least, vector / length, 0)


class SpectralNorm(Constraint):
    """Every weight is divided by its largest singular value (arXiv 1802.05957).

    The weights of linear, convolution and embedding layers, as matrices (outputs, everything else).
    A perceptron of such layers with ReLU is 1-Lipschitz, to the accuracy of the singular values:
    with 24 `iterations` after every step, 1% a layer at usual rates. Of a convolution the kernel is
    normalised, not the map between images: where k x k kernels move by s, that can lengthen a
    difference by a factor of ceil(k / s).
    """

    def __init__(self, iterations: int = 24) -> None:
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {iterations}")
        self.iterations = iterations
        self._divisions: tuple[nn.Module, list[tuple[SpectralDivision, Tensor]]] | None = None

    def wrap(self, critic: nn.Module) -> nn.Module:
        """Reparametrise the layers; their singular values are exact at first.

        Raises `ConfigError` for a weight that a parametrization makes already.
        """
        layers = [m for m in critic.modules() if isinstance(m, (*LINEAR, nn.Embedding))]
        if any(is_parametrized(layer, "weight") for layer in layers):
            raise ConfigError(
                "The critic's weights are parametrised already, and spectral normalisation cannot"
                " follow them: type constraint=none, or use plain layers."
            )
        for layer in layers:
            axis = 1 if isinstance(layer, _ConvTransposeNd) else 0
            register_parametrization(layer, "weight", SpectralDivision(layer.weight, axis))
        return critic

    def after_step(self, critic: nn.Module) -> None:
        """Follow the weights' singular vectors."""
        if self._divisions is None or self._divisions[0] is not critic:
            found = [
                (made[0], made.original)
                for made in critic.modules()
                if isinstance(made, ParametrizationList) and isinstance(made[0], SpectralDivision)
            ]
            self._divisions = (critic, found)
        for division, weight in self._divisions[1]:
            division.follow(weight, self.iterations)
