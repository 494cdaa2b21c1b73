"""How steep a critic is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wgan_cli.randomness import Draws


def gradient_norms(critic: nn.Module, real: Tensor, fake: Tensor, draws: Draws) -> Tensor:
    """The norm of the critic's gradient at one random point between each real and fake sample.

    Shapes (n, ...) to (n,). The largest is a lower bound of the critic's Lipschitz constant. The
    critic must treat samples independently (eval mode where it has BatchNorm).
    """
    share = draws.uniform((len(real),), real.device).reshape(-1, *[1] * (real.ndim - 1))
    points = torch.lerp(fake, real, share).requires_grad_()
    (gradients,) = torch.autograd.grad(critic(points).sum(), points)
    return gradients.flatten(1).norm(dim=1)
