"""A twin's convolutions, computed as what a CPU's libraries are fast at.

oneDNN is far from its rate of products where a convolution ends in few channels or small maps. Each
class is its base class with the same weights, and equal to it but for rounding; on other devices,
and for shapes that gain nothing, it is its base class.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Where a convolution with strides makes maps no larger, its weights' gradient is by patches.
_SMALL = 8
# A last layer has as many channels as an image.
_FEW = 4
# What the left, own and right neighbour of a pixel meet of a kernel of four with a stride of two,
# in even and in odd places of the larger map. The fifth number is a 0.
_EVEN_AND_ODD = ((3, 1, 4), (4, 2, 0))


def quick(layer: nn.Module) -> None:
    """Let a convolution of torch's be computed as here; any other layer stays as it is."""
    if type(layer) is nn.Conv2d and _is_plain(layer):
        layer.__class__ = Convolution
    elif type(layer) is nn.ConvTranspose2d and _is_plain(layer) and layer.output_padding == (0, 0):
        layer.__class__ = TransposedConvolution


def _is_plain(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    return (
        layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


class Convolution(nn.Conv2d):
    """Maps (batch, channels, height, width) to maps of other sizes."""

    def forward(self, input: Tensor) -> Tensor:
        """Of a kernel as large as the map a matrix product, to small maps `_ByPatches`."""
        if input.is_cpu:
            if self.padding == (0, 0) and self.kernel_size == input.shape[2:]:
                flat = input.permute(0, 2, 3, 1).flatten(1)
                weight = self.weight.permute(0, 2, 3, 1).flatten(1)
                return F.linear(flat, weight, self.bias)[:, :, None, None]
            if max(self.stride) > 1 and max(self._sizes(input)) <= _SMALL:
                settings = self.stride, self.padding
                return cast(Tensor, _ByPatches.apply(input, self.weight, self.bias, *settings))
        return super().forward(input)

    def _sizes(self, maps: Tensor) -> list[int]:
        """Height and width of what it makes."""
        padding = cast("tuple[int, int]", self.padding)
        edges = zip(maps.shape[2:], padding, self.kernel_size, self.stride, strict=True)
        return [(size + 2 * pad - kernel) // step + 1 for size, pad, kernel, step in edges]


class TransposedConvolution(nn.ConvTranspose2d):
    """Maps (batch, channels, height, width) to larger maps."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Of single pixels a matrix product, to few channels a convolution."""
        shape = self.kernel_size, self.stride, self.padding
        if input.is_cpu and output_size is None:
            if input.shape[2:] == (1, 1) and self.padding == (0, 0):
                maps = input.flatten(1) @ self.weight.permute(0, 2, 3, 1).flatten(1)
                return self._biased(maps.unflatten(1, (*self.kernel_size, self.out_channels)))
            if shape == ((4, 4), (2, 2), (1, 1)) and self.out_channels <= _FEW:
                return self._biased(self._interleaved(input))
        return super().forward(input, output_size)

    def _interleaved(self, maps: Tensor) -> Tensor:
        """The four pixels that each one becomes, at once: (batch, 2 height, 2 width, channels)."""
        table = torch.tensor(_EVEN_AND_ODD)
        kernel = F.pad(self.weight, (0, 1, 0, 1))[:, :, table][..., table]
        kernel = kernel.permute(2, 4, 1, 0, 3, 5).flatten(0, 2)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        pixels = F.conv2d(maps, kernel, padding=1).permute(0, 2, 3, 1)
        pixels = pixels.unflatten(3, (2, 2, self.out_channels)).transpose(2, 3)
        return pixels.flatten(1, 2).flatten(2, 3)

    def _biased(self, maps: Tensor) -> Tensor:
        """Maps with their channels last in shape too, as torch's with them in place."""
        biased = maps if self.bias is None else maps + self.bias
        return biased.permute(0, 3, 1, 2)


class _ByPatches(torch.autograd.Function):
    """A convolution whose weights' gradient is one product of its gradient with all patches."""

    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.settings = stride, padding
        return F.conv2d(maps, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (maps, weight), (stride, padding) = ctx.saved_tensors, ctx.settings
        rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)
        of_maps = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_maps, _, _ = torch.ops.aten.convolution_backward(
                *(gradient, maps, weight, None, stride, padding, (1, 1)),
                *(False, (0, 0), 1, (True, False, False)),
            )
        if ctx.needs_input_grad[1]:
            kernel = weight.shape[2:]
            patches = _patches(maps, kernel, stride, padding, gradient.shape[2:])
            of_weight = (rows.t() @ patches).unflatten(1, (*kernel, -1)).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_maps, of_weight, of_bias, None, None


def _patches(
    maps: Tensor,
    kernel: torch.Size,
    stride: tuple[int, int],
    padding: tuple[int, int],
    places: torch.Size,
) -> Tensor:
    """What a kernel meets in each of its places, as rows (batch * places, kernel * channels)."""
    (above, beside), (down, right) = padding, stride
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, beside, beside, above, above)).contiguous()
    batch, rows, columns, one = padded.stride()
    shape = (len(maps), *places, *kernel, maps.shape[1])
    strides = (batch, rows * down, columns * right, rows, columns, one)
    return padded.as_strided(shape, strides).flatten(3).flatten(0, 2)
