"""The gradient penalty of WGAN-GP, on the critic's gradient between real and fake samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wgan_cli.constraints.base import Constraint
from wgan_cli.randomness import Draws


class GradientPenalty(Constraint):
    """Adds weight * E (|grad f(x)| - target)^2 to the loss (arXiv 1704.00028, Algorithm 1).

    Here x = e real + (1 - e) fake, with e uniform on [0, 1) for each pair of samples. The norm is
    Euclidean, over all dimensions of a sample. With `one_sided`, slopes below the target are not
    penalised: the penalty is weight * E max(0, |grad f(x)| - target)^2 (the paper's appendix).

    The penalty pulls the slopes at the points x towards the target. It does not bound slopes, and
    does not act at other points. The critic must treat samples independently, so it cannot have
    BatchNorm.
    """

    def __init__(self, weight: float = 10.0, target: float = 1.0, one_sided: bool = False) -> None:
        if not weight > 0:
            raise ValueError(f"weight must be above 0, not {weight}")
        if not target >= 0:
            raise ValueError(f"target must be at least 0, not {target}")
        self.weight = weight
        self.target = target
        self.one_sided = one_sided

    def penalty(
        self,
        critic: nn.Module,
        real: Tensor,
        fake: Tensor,
        draws: Draws,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Return the penalty, a differentiable scalar. One random point per pair is used."""
        # The squares of second-order gradients exceed bfloat16's precision and float16's range.
        with torch.autocast(real.device.type, enabled=False):
            epsilon = draws.uniform((len(real),), real.device).to(real.dtype)
            points = torch.lerp(fake, real, epsilon.reshape(-1, *[1] * (real.ndim - 1)))
            points.requires_grad_()
            scores = critic(points) if labels is None else critic(points, labels)
            (slopes,) = torch.autograd.grad(scores.sum(), points, create_graph=True)
            # Use vector_norm: its gradient at 0 is 0. The gradient of a square root would be NaN.
            excess = torch.linalg.vector_norm(slopes.flatten(1), dim=1) - self.target
            if self.one_sided:
                excess = excess.relu()
            return self.weight * excess.square().mean()
