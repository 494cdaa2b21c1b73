"""The generator of arXiv 1701.07875, Example 1: points on a vertical line at x = theta."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wgan_cli.errors import ConfigError


class Generator(nn.Module):
    """Maps latents (batch, 1) to points (theta, z), shape (batch, 2), with z uniform on [0, 1].

    The only parameter is theta; the constructor takes its initial value. z is the standard normal
    distribution function (CDF) of the latent. The W1 distance to the line (0, z) is abs(theta).
    Unless theta is 0, the Jensen-Shannon divergence is log 2 and the total variation is 1. Raises
    `ConfigError` for another latent dimension or sample shape.
    """

    def __init__(self, latent_dim: int, sample_shape: Sequence[int], theta: float = 1.0) -> None:
        super().__init__()
        if latent_dim != 1:
            raise ConfigError(
                f"model=parallel_lines maps one number to a point, not {latent_dim}: type"
                " latent_dim=1."
            )
        if tuple(sample_shape) != (2,):
            raise ConfigError(
                "model=parallel_lines generates points in the plane, and these samples have shape"
                f" {tuple(sample_shape)}: type dataset=parallel_lines, or model=mlp."
            )
        self.theta = nn.Parameter(torch.tensor(float(theta)))

    def forward(self, latent: Tensor) -> Tensor:
        """Map latents (batch, 1) to points (batch, 2)."""
        heights = torch.special.ndtr(latent[:, 0])
        return torch.stack([self.theta.expand_as(heights), heights], dim=1)

    def report(self) -> dict[str, float]:
        """Return the scalar to log: `generator/theta`, the position of the line."""
        return {"generator/theta": float(self.theta.detach())}
