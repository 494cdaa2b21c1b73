"""Orthogonal regularisation: pulls the singular values of the critic's weights towards 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wgan_cli.constraints.base import LINEAR, Constraint
from wgan_cli.randomness import Draws


class OrthogonalRegularization(Constraint):
    """Adds weight * (sum over layers of |W W^T - I|^2) to the loss, in the Frobenius norm.

    W is the weight of a linear or convolution layer as a matrix (outputs, all other dimensions). If
    W has more rows than columns, its rows cannot be orthonormal, and W^T W is used instead. This is
    the regulariser of arXiv 1609.07093, but squared as in arXiv 1809.11096, equation 2. A ReLU
    perceptron with a small penalty is nearly 1-Lipschitz, but there is no guaranteed bound.
    """

    def __init__(self, weight: float = 10.0) -> None:
        if not weight > 0:
            raise ValueError(f"weight must be above 0, not {weight}")
        self.weight = weight

    def penalty(
        self,
        critic: nn.Module,
        real: Tensor,
        fake: Tensor,
        draws: Draws,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Return the penalty of the current weights, a scalar. Samples and labels are not used."""
        with torch.autocast(real.device.type, enabled=False):
            parts = [deviation.square().sum() for deviation in _deviations(critic)]
            return self.weight * torch.stack(parts).sum()

    @torch.no_grad()
    def report(self, critic: nn.Module) -> dict[str, float]:
        """Return `critic/orthogonality`: the mean over layers of |W W^T - I| / sqrt(rows).

        For a layer, this is the root mean square of (singular value)^2 - 1; 0 is best.
        """
        parts = [torch.linalg.matrix_norm(d) / len(d) ** 0.5 for d in _deviations(critic)]
        return {"critic/orthogonality": float(torch.stack(parts).mean())}


def _deviations(critic: nn.Module) -> list[Tensor]:
    """Return the matrix W W^T - I of each layer, or W^T W - I if that matrix is smaller."""
    deviations = []
    for layer in critic.modules():
        if isinstance(layer, LINEAR):
            matrix = layer.weight.flatten(1)
            if matrix.shape[0] > matrix.shape[1]:
                matrix = matrix.mT
            identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
            deviations.append(matrix @ matrix.mT - identity)
    return deviations
