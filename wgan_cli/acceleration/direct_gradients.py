"""Linear layers that write the gradients of their weights where the optimizer reads them.

Autograd makes a new tensor for the gradient of each weight in each pass, adds those of the passes
on real and on fake samples, and the sum is then copied to the optimizer's flat gradient. For a
perceptron on a CPU, this moves more memory than the optimizer and the clipping together. Here the
matrix products themselves add to the flat gradient, with the same rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# The libraries for matrix products add up to so many products of numbers before they add the sum to
# the result. (MKL: 384.)
_ONE_BLOCK = 256


def direct_copy_of(network: nn.Module) -> nn.Module | None:
    """Return a copy of the network with direct linear layers; None if no layer can be direct.

    The network must go on to work as a copy, which shares all its weights and buffers (the trait
    `NetworkTraits.bf16_copy` states this). Layers that are parametrized, frozen in part or have
    hooks on their weights stay as they are. Create a `DirectGradients` before the first backward
    pass. The copy has no second derivatives.
    """
    suited = [_can_be_direct(layer) for layer in network.modules()]
    if not any(suited):
        return None
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    direct = copy.deepcopy(network, shared)
    for layer, becomes_direct in zip(direct.modules(), suited, strict=True):
        if becomes_direct:
            layer.__class__ = DirectLinear
    return direct


def _can_be_direct(layer: nn.Module) -> bool:
    # Compare the exact type, because parametrizing a layer gives it a subclass of its type.
    return type(layer) is nn.Linear and all(
        weight.requires_grad and not weight._backward_hooks for weight in layer.parameters()
    )


class DirectGradients:
    """The gradients of all direct layers of a network, which backward passes add up.

    `totals` maps each of the network's weights to the tensor of its shape that gets its gradient.
    """

    def __init__(self, network: nn.Module, totals: Mapping[nn.Parameter, Tensor]) -> None:
        self._sums: dict[nn.Parameter, _GradientSum] = {}
        for layer in network.modules():
            if isinstance(layer, DirectLinear):
                layer.gradients = self
                for weight in layer.parameters():
                    self._sums.setdefault(weight, _GradientSum(totals[weight]))

    def __contains__(self, weight: nn.Parameter) -> bool:
        return weight in self._sums

    def apply(self, layer: DirectLinear, rows: Tensor) -> Tensor:
        """Return the layer's outputs for its inputs, which are both matrices."""
        sums = [self._sums[weight] for weight in layer.parameters()]
        output: Tensor = _Linear.apply(rows, layer.weight, layer.bias, sums)
        return output

    def clear(self) -> None:
        """Delete all gradients."""
        for gradient in self._sums.values():
            gradient.empty = True

    def finish(self) -> None:
        """Add the gradients that autograd itself has computed, and write the missing ones as 0."""
        for weight, gradient in self._sums.items():
            gradient.finish(weight.grad)


class DirectLinear(nn.Linear):
    """A linear layer that adds the gradients of its weight and bias to its `gradients`."""

    gradients: DirectGradients

    def forward(self, input: Tensor) -> Tensor:
        """Map inputs (n, in_features) to outputs (n, out_features)."""
        if input.dim() == 2 and self.weight.requires_grad:
            return self.gradients.apply(self, input)
        return super().forward(input)


class _GradientSum:
    """A gradient that backward passes add to; `total` has the shape of its weight.

    While `empty` is true, the values of `total` mean nothing.
    """

    def __init__(self, total: Tensor) -> None:
        self.total = total
        self.empty = True

    def add_product(self, left: Tensor, right: Tensor) -> None:
        """Add the product of matrices (m, k) and (k, n), rounded as a product and a sum are."""
        if self.empty:
            torch.mm(left, right, out=self.total)
        elif 1 in (*left.shape, *right.shape) or left.shape[1] > _ONE_BLOCK:
            # Products with vectors, and those in several blocks, would add in another order.
            self.total.add_(left.mm(right))
        else:
            self.total.addmm_(left, right)
        self.empty = False

    def add_rows(self, rows: Tensor) -> None:
        """Add the sum of the rows of a matrix."""
        if self.empty:
            torch.sum(rows, 0, out=self.total)
        else:
            self.total.add_(rows.sum(0))
        self.empty = False

    def finish(self, more: Tensor | None) -> None:
        """Add the gradient `more`, if any; write zeros if nothing was added before."""
        if self.empty:
            self.total.zero_()
        if more is not None:
            self.total.add_(more)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, sums: list[_GradientSum]
    ) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.sums = sums
        return nn.functional.linear(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        of_weight, *of_bias = ctx.sums
        of_weight.add_product(gradient.t(), rows)
        for of_rows in of_bias:
            of_rows.add_rows(gradient)
        of_input = gradient.mm(weight) if ctx.needs_input_grad[0] else None
        return of_input, None, None, None
