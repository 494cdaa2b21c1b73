"""ReLU layers without a second derivative, for gradient penalties.

The second derivative of ReLU is 0, but torch passes these zeros on as gradients. The backward pass
of a penalty then runs through the whole forward pass again, to add zeros. For a critic of
convolutions and ReLUs, this is a third of the penalty's work.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn


def use_piecewise_linear_activations(network: nn.Module) -> None:
    """Give the network's `nn.ReLU` and `nn.LeakyReLU` layers a second derivative of None, not 0.

    Values and gradients stay the same. A parameter on which a penalty does not depend then gets no
    gradient from it, where it got zeros. Layers that work in place no longer do.
    """
    for layer in network.modules():
        if type(layer) in _CLASSES:
            layer.__class__ = _CLASSES[type(layer)]


class _Activation(torch.autograd.Function):
    """The larger of x and `slope` * x, for a slope from 0 to 1."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, slope: float) -> Tensor:
        activated = nn.functional.leaky_relu(inputs, slope) if slope else inputs.relu()
        ctx.save_for_backward(activated)
        ctx.slope = slope
        # Otherwise a gradient of None arrives as zeros.
        ctx.set_materialize_grads(False)
        return activated

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        if gradient is None:
            return None, None
        (activated,) = ctx.saved_tensors
        return cast(Tensor, _Product.apply(gradient, activated.detach(), ctx.slope)), None


class _Product(torch.autograd.Function):
    """The gradient times the activation's derivative, which counts as a constant."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, activated: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(activated)
        ctx.slope = slope
        if slope:
            return torch.ops.aten.leaky_relu_backward.default(gradient, activated, slope, True)
        return torch.ops.aten.threshold_backward.default(gradient, activated, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return cast(Tensor, _Product.apply(gradient, *ctx.saved_tensors, ctx.slope)), None, None


class PiecewiseLinearReLU(nn.ReLU):
    """A ReLU without a second derivative."""

    def forward(self, input: Tensor) -> Tensor:
        """Return max(x, 0)."""
        return cast(Tensor, _Activation.apply(input, 0.0))


class PiecewiseLinearLeakyReLU(nn.LeakyReLU):
    """A leaky ReLU without a second derivative."""

    def forward(self, input: Tensor) -> Tensor:
        """Return x where it is positive, and x times the negative slope elsewhere."""
        if not 0 < self.negative_slope <= 1:
            return super().forward(input)
        return cast(Tensor, _Activation.apply(input, self.negative_slope))


_CLASSES: dict[type, type[nn.Module]] = {
    nn.ReLU: PiecewiseLinearReLU,
    nn.LeakyReLU: PiecewiseLinearLeakyReLU,
}
