"""Convolutions whose second derivatives are fast on a GPU, for gradient penalties.

For the second derivative by the weight, torch runs a convolution whose kernel is as large as the
map. No GPU kernel is made for that. It is the weight gradient of an ordinary convolution, so the
functions here ask for that gradient instead. Values and derivatives are those of torch's layers, up
to rounding.

A convolution y = C(x, w) is linear in x and in w. For a gradient g of y, let X(g, w) be the
gradient of x and W(g, x) that of w. With second-order gradients a of X and b of W,
    <a, X(g, w)> + <b, W(g, x)> = <g, C(a, w) + C(x, b)>,
so the gradient of g is C(a, w) + C(x, b), that of x is X(g, b), and that of w is W(g, a).
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.conv import _ConvNd

_Gradients = tuple[Tensor | None, ...]


def use_twice_differentiable_convolutions(network: nn.Module) -> None:
    """Give the network's convolutions, plain and transposed, the fast second derivatives.

    The layers keep their weights and change only their class, to a subclass of the old one. Not
    changed are layers with a string as padding, with another padding mode than zeros, or of a
    subclass of torch's, such as parametrized ones. Forward-mode derivatives and third derivatives
    raise an error afterwards.
    """
    for layer in network.modules():
        if type(layer) in _CLASSES and _pads_with_zeros(layer):
            layer.__class__ = _CLASSES[type(layer)]


def _pads_with_zeros(layer: nn.Module) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


class _Settings(NamedTuple):
    """The settings of a convolution, in the order in which torch's operators take them."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


class _Convolution(torch.autograd.Function):
    """A convolution of (batch, channels, ...), whose backward pass is `_ConvolutionBackward`."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings
    ) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        return torch.convolution(maps, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> _Gradients:
        if gradient is None:
            return None, None, None, None
        # A penalty's gradient by the samples needs no gradients of weights. The gradient of maps
        # is taken as needed: the engine answers slowly for samples of which one asks it.
        nodes = [node for node, _ in ctx.next_functions]
        needed = [nodes[0] is not None, *map(_is_needed, nodes[1:]), False][:3]
        arguments = (gradient, *ctx.saved_tensors, ctx.settings, needed)
        return *cast(_Gradients, _ConvolutionBackward.apply(*arguments)), None


class _ConvolutionBackward(torch.autograd.Function):
    """The gradients of a convolution's maps, weight and bias; None for those not needed."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        maps: Tensor,
        weight: Tensor,
        settings: _Settings,
        needed: list[bool],
    ) -> _Gradients:
        ctx.save_for_backward(gradient, maps, weight)
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        return _gradients(gradient, maps, weight, settings, needed)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_maps: Tensor | None, by_weight: Tensor | None, by_bias: Tensor | None
    ) -> _Gradients:
        gradient, maps, weight = ctx.saved_tensors
        settings = ctx.settings
        needs_gradient, needs_maps, needs_weight = ctx.needs_input_grad[:3]
        of_gradient = of_maps = of_weight = None
        if needs_gradient:
            if by_maps is not None:
                of_gradient = torch.convolution(by_maps, weight, by_bias, *settings)
            elif by_bias is not None:
                of_gradient = by_bias.reshape(-1, *[1] * (gradient.dim() - 2)).expand_as(gradient)
            if by_weight is not None:
                part = torch.convolution(maps, by_weight, None, *settings)
                of_gradient = part if of_gradient is None else of_gradient + part
        if needs_maps and by_weight is not None:
            of_maps = _gradients(gradient, maps, by_weight, settings, [True, False, False])[0]
        if needs_weight and by_maps is not None:
            of_weight = _gradients(gradient, by_maps, weight, settings, [False, True, False])[1]
        return of_gradient, of_maps, of_weight, None, None


def _gradients(
    gradient: Tensor, maps: Tensor, weight: Tensor, settings: _Settings, needed: list[bool]
) -> _Gradients:
    biases = [gradient.shape[1]]
    arguments = (gradient, maps, weight, biases, *settings, needed)
    return cast(_Gradients, torch.ops.aten.convolution_backward.default(*arguments))


def _is_needed(node: Any) -> bool:
    """Return True if the backward pass in progress will use a gradient for this graph node."""
    if node is None:
        return False
    # `ctx.needs_input_grad` is also True for weights of which no gradient was asked for. Torch's
    # own layers ask the engine, and from Python only this function does so.
    try:
        return torch._C._will_engine_execute_node(node)
    # The engine does not answer for a leaf of which `torch.autograd.grad` was asked.
    except (AttributeError, RuntimeError):
        return True


class _TwiceDifferentiable(_ConvNd):
    """Runs the forward pass of a layer of torch's as `_Convolution`."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the output maps. As in torch's classes, the batch dimension may be missing."""
        batched = input.dim() == self.weight.dim()
        # Autocast would convert the operators' inputs in the forward pass only.
        if output_size or not batched or torch.is_autocast_enabled(input.device.type):
            sizes = () if output_size is None else (output_size,)
            return cast(Tensor, super().forward(input, *sizes))
        padding = cast("tuple[int, ...]", self.padding)
        shape = (self.stride, padding, self.dilation)
        settings = _Settings(*shape, self.transposed, self.output_padding, self.groups)
        return cast(Tensor, _Convolution.apply(input, self.weight, self.bias, settings))


class TwiceDifferentiableConv1d(_TwiceDifferentiable, nn.Conv1d):
    """A convolution of (batch, channels, length) with fast second derivatives."""


class TwiceDifferentiableConv2d(_TwiceDifferentiable, nn.Conv2d):
    """A convolution of (batch, channels, height, width) with fast second derivatives."""


class TwiceDifferentiableConv3d(_TwiceDifferentiable, nn.Conv3d):
    """A convolution of (batch, channels, depth, height, width) with fast second derivatives."""


class TwiceDifferentiableConvTranspose1d(_TwiceDifferentiable, nn.ConvTranspose1d):
    """The transposed form of `TwiceDifferentiableConv1d`."""


class TwiceDifferentiableConvTranspose2d(_TwiceDifferentiable, nn.ConvTranspose2d):
    """The transposed form of `TwiceDifferentiableConv2d`."""


class TwiceDifferentiableConvTranspose3d(_TwiceDifferentiable, nn.ConvTranspose3d):
    """The transposed form of `TwiceDifferentiableConv3d`."""


_CLASSES: dict[type, type[nn.Module]] = {
    nn.Conv1d: TwiceDifferentiableConv1d,
    nn.Conv2d: TwiceDifferentiableConv2d,
    nn.Conv3d: TwiceDifferentiableConv3d,
    nn.ConvTranspose1d: TwiceDifferentiableConvTranspose1d,
    nn.ConvTranspose2d: TwiceDifferentiableConvTranspose2d,
    nn.ConvTranspose3d: TwiceDifferentiableConvTranspose3d,
}
