"""The generator of arXiv 1701.07875, Example 1: a vertical line at theta."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wgan_cli.errors import ConfigError


class Generator(nn.Module):
    """Latent (batch, 1) to points (theta, z), shape (batch, 2), with z uniform on [0, 1].

    `theta` is the one parameter and given as it starts. z is the normal distribution function of
    the latent. Against the line (0, z), W1 is abs(theta), the Jensen-Shannon divergence log 2 and
    total variation 1, unless theta is 0. Raises `ConfigError` for another latent or sample shape.
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
                "model=parallel_lines draws points of the plane, and these samples have shape"
                f" {tuple(sample_shape)}: type dataset=parallel_lines, or model=mlp."
            )
        self.theta = nn.Parameter(torch.tensor(float(theta)))

    def forward(self, latent: Tensor) -> Tensor:
        """(batch, 1) to (batch, 2)."""
        heights = torch.special.ndtr(latent[:, 0])
        return torch.stack([self.theta.expand_as(heights), heights], dim=1)

    def report(self) -> dict[str, float]:
        """`generator/theta`: where the line stands."""
        return {"generator/theta": float(self.theta.detach())}
