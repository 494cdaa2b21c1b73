"""Weight clipping, the constraint of the original WGAN paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wgan_cli.constraints.base import NORMALIZATION, Constraint
from wgan_cli.flat_tensors import merge_adjacent


class WeightClipping(Constraint):
    """Clips all parameters to [-clip, clip] (arXiv 1701.07875, Algorithm 1, line 7).

    The bound on the weights makes f Lipschitz, with an unknown constant K. The paper also clips the
    scales and shifts of normalisation layers; with `exempt_normalization` they are not clipped.
    """

    def __init__(self, clip: float, exempt_normalization: bool = False) -> None:
        if not clip > 0:
            raise ValueError(f"clip must be above 0, not {clip}")
        self.clip = clip
        self.exempt_normalization = exempt_normalization
        self._clipped: tuple[nn.Module, list[Tensor]] | None = None
        self._merged: tuple[list[int], list[Tensor]] | None = None

    def clipped_parameters(self, critic: nn.Module) -> list[Tensor]:
        """Return the parameters that `after_step` clips."""
        if self._clipped is None or self._clipped[0] is not critic:
            exempt = {
                id(parameter)
                for module in critic.modules()
                if self.exempt_normalization and isinstance(module, NORMALIZATION)
                for parameter in module.parameters(recurse=False)
            }
            self._clipped = (critic, [p for p in critic.parameters() if id(p) not in exempt])
        return self._clipped[1]

    @torch.no_grad()
    def after_step(self, critic: nn.Module) -> None:
        """Clip the weights, with one call for parameters that are adjacent in memory."""
        parameters = self.clipped_parameters(critic)
        addresses = [parameter.data_ptr() for parameter in parameters]
        if self._merged is None or self._merged[0] != addresses:
            self._merged = (addresses, merge_adjacent(parameters))
        for weights in self._merged[1]:
            weights.clamp_(-self.clip, self.clip)

    def bounded_weights(self, critic: nn.Module) -> tuple[float, list[Tensor]]:
        """Return `clip` and the parameters that are clipped."""
        return self.clip, self.clipped_parameters(critic)

    @torch.no_grad()
    def report(self, critic: nn.Module) -> dict[str, float]:
        """Return `critic/clip_saturation`: the fraction of weights with abs(w) >= 0.99 clip."""
        parameters = self.clipped_parameters(critic)
        at_bound = torch.stack([(p.abs() >= 0.99 * self.clip).sum() for p in parameters]).sum()
        return {"critic/clip_saturation": float(at_bound) / sum(p.numel() for p in parameters)}
