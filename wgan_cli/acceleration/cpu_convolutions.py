"""A twin's convolutions, computed as what a CPU's libraries are fast at.

oneDNN is far from its rate of products where a convolution ends in few channels or small maps. Each
class is its base class with the same weights and, but for rounding and second derivatives, equal to
it; on other devices, and for shapes that gain nothing, it is its base class. What each gained is in
docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# The weights' gradient is by patches where maps are no larger on a convolution's small side, and
# have at least so many channels there: copying patches pays by what is multiplied with them.
_SMALL, _MANY = 8, 256
# A last layer has as many channels as an image.
_FEW = 4
# A transposed convolution by a kernel k of four, with a stride of two, makes of a row x
#   y[2i] = k[3] x[i-1] + k[1] x[i]    and    y[2i+1] = k[2] x[i] + k[0] x[i+1],
# two convolutions by kernels of three. Where a neighbour has no part stands k[4], which is 0.
_EVEN_AND_ODD = torch.tensor(((3, 1, 4), (4, 2, 0)))


def use_fast_convolutions(layer: nn.Module) -> None:
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
    """A matrix product where the kernel is as large as the map; to small maps `_ByPatches`."""

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, height, width), or one image without the batch, as `nn.Conv2d`."""
        if input.is_cpu and input.dim() == 4:
            if self.padding == (0, 0) and self.kernel_size == input.shape[2:]:
                flat = input.permute(0, 2, 3, 1).flatten(1)
                weight = self.weight.permute(0, 2, 3, 1).flatten(1)
                return F.linear(flat, weight, self.bias)[:, :, None, None]
            if _by_patches(self, self.out_channels, self._sizes(input)):
                settings = self.stride, self.padding, False
                return cast(Tensor, _ByPatches.apply(input, self.weight, self.bias, *settings))
        return super().forward(input)

    def _sizes(self, maps: Tensor) -> list[int]:
        """Height and width of what it makes."""
        padding = cast("tuple[int, int]", self.padding)
        edges = zip(maps.shape[2:], padding, self.kernel_size, self.stride, strict=True)
        return [(size + 2 * pad - kernel) // step + 1 for size, pad, kernel, step in edges]


class TransposedConvolution(nn.ConvTranspose2d):
    """A matrix product of single pixels, a convolution to few channels, from small maps by patches.

    The last by `_ByPatches`, as `Convolution`.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(batch, channels, height, width), or one image without the batch, as torch's."""
        shape = self.kernel_size, self.stride, self.padding
        if input.is_cpu and input.dim() == 4 and output_size is None:
            if input.shape[2:] == (1, 1) and self.padding == (0, 0):
                maps = input.flatten(1) @ self.weight.permute(0, 2, 3, 1).flatten(1)
                maps = maps.unflatten(1, (*self.kernel_size, self.out_channels))
                return (maps if self.bias is None else maps + self.bias).permute(0, 3, 1, 2)
            if shape == ((4, 4), (2, 2), (1, 1)) and self.out_channels <= _FEW:
                return self._interleaved(input)
            if _by_patches(self, self.in_channels, input.shape[2:]):
                settings = self.stride, self.padding, True
                return cast(Tensor, _ByPatches.apply(input, self.weight, self.bias, *settings))
        return super().forward(input, output_size)

    def _interleaved(self, maps: Tensor) -> Tensor:
        """The four pixels that each one becomes, at once."""
        numbers = F.pad(self.weight, (0, 1, 0, 1))
        kernel = numbers[:, :, _EVEN_AND_ODD][..., _EVEN_AND_ODD]
        kernel = kernel.permute(2, 4, 1, 0, 3, 5).flatten(0, 2)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        bias = None if self.bias is None else self.bias.repeat(4)
        pixels = F.conv2d(maps, kernel, bias, padding=1).permute(0, 2, 3, 1)
        pixels = pixels.unflatten(3, (2, 2, self.out_channels)).transpose(2, 3)
        return pixels.flatten(1, 2).flatten(2, 3).permute(0, 3, 1, 2)


def _by_patches(layer: nn.Conv2d | nn.ConvTranspose2d, channels: int, sizes: Sequence[int]) -> bool:
    """Whether `_ByPatches` pays, by what there is on the small side."""
    return max(layer.stride) > 1 and max(sizes) <= _SMALL and channels >= _MANY


class _ByPatches(torch.autograd.Function):
    """A convolution whose weights' gradient is one product: small side by patches of the large.

    Of the first derivative only: none can be taken of its gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        transposed: bool,
    ) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.settings = stride, padding, transposed
        convolve = F.conv_transpose2d if transposed else F.conv2d
        return convolve(maps, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (maps, weight), (stride, padding, transposed) = ctx.saved_tensors, ctx.settings
        of_maps = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_maps, _, _ = torch.ops.aten.convolution_backward(
                *(gradient, maps, weight, None, stride, padding, (1, 1)),
                *(transposed, (0, 0), 1, (True, False, False)),
            )
        if ctx.needs_input_grad[1]:
            small, large = (maps, gradient) if transposed else (gradient, maps)
            kernel = weight.shape[2:]
            patches = _patches(large, kernel, stride, padding, small.shape[2:])
            of_weight = _rows(small).t() @ patches
            of_weight = of_weight.unflatten(1, (*kernel, -1)).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[2]:
            of_bias = _rows(gradient).sum(0)
        return of_maps, of_weight, of_bias, None, None, None


def _rows(maps: Tensor) -> Tensor:
    """The channels of every place (batch * places, channels)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


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
