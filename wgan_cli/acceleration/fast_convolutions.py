"""Faster convolutions for bfloat16 copies of networks.

oneDNN and cuDNN are slow at convolutions with few channels or small maps. The classes here compute
these convolutions as matrix products or as other convolutions. Each class has the same weights as
its base class and gives the same result up to rounding, but for some shapes it has no second
derivatives on the CPU. For other shapes, it calls the base class. docs/performance.md has
measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Use `_ByPatches` if the input or output with the smaller maps has at most _SMALL x _SMALL pixels
# and at least _MANY channels. With fewer channels, copying the patches costs more than it saves.
_SMALL, _MANY = 8, 256
# An output with at most this many channels is taken to be an image from the last layer.
_FEW = 4
# The number of channels to which a layer with fewer channels is extended on CUDA.
_GROUP = 8
# A transposed convolution of a row x with a kernel k of size 4, stride 2 and padding 1 is
#   y[2i] = k[3] x[i-1] + k[1] x[i]    and    y[2i+1] = k[2] x[i] + k[0] x[i+1],
# which are two convolutions with kernels of size 3. Index 4 is a zero that is appended to k.
_EVEN_AND_ODD = torch.tensor(((3, 1, 4), (4, 2, 0)))


def use_fast_convolutions(layer: nn.Module) -> None:
    """Convert a torch convolution to a class of this module. Leave other layers unchanged."""
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
    """A convolution that uses a matrix product if the kernel has the size of the map.

    For small outputs it uses `_ByPatches`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the output maps. As in `nn.Conv2d`, the batch dimension may be missing."""
        if input.dim() == 4 and (input.is_cpu or input.is_cuda):
            if self.padding == (0, 0) and self.kernel_size == input.shape[2:]:
                flat = input.permute(0, 2, 3, 1).flatten(1)
                weight = self.weight.permute(0, 2, 3, 1).flatten(1)
                return F.linear(flat, weight, self.bias)[:, :, None, None]
            if input.is_cuda and self.in_channels <= _FEW:
                return self._with_more_channels(input)
            if input.is_cpu and _by_patches(self, self.out_channels, self._sizes(input)):
                settings = self.stride, self.padding, False
                return cast(Tensor, _ByPatches.apply(input, self.weight, self.bias, *settings))
        return super().forward(input)

    def _with_more_channels(self, maps: Tensor) -> Tensor:
        """Return the output maps, from eight input channels, of which some are 0.

        Tensor cores work on groups of eight channels.
        """
        channels = 0, 0, 0, 0, 0, _GROUP - self.in_channels
        return self._conv_forward(F.pad(maps, channels), F.pad(self.weight, channels), self.bias)

    def _sizes(self, maps: Tensor) -> list[int]:
        """Return the height and width of the output."""
        padding = cast("tuple[int, int]", self.padding)
        edges = zip(maps.shape[2:], padding, self.kernel_size, self.stride, strict=True)
        return [(size + 2 * pad - kernel) // step + 1 for size, pad, kernel, step in edges]


class TransposedConvolution(nn.ConvTranspose2d):
    """A transposed convolution that uses a matrix product for maps of one pixel.

    For few output channels, it uses a plain convolution. For other small inputs, it uses
    `_ByPatches`.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the output maps. As in torch's class, the batch dimension may be missing."""
        shape = self.kernel_size, self.stride, self.padding
        known = input.is_cpu or input.is_cuda
        if known and input.dim() == 4 and output_size is None:
            if input.shape[2:] == (1, 1) and self.padding == (0, 0):
                maps = input.flatten(1) @ self.weight.permute(0, 2, 3, 1).flatten(1)
                maps = maps.unflatten(1, (*self.kernel_size, self.out_channels))
                return (maps if self.bias is None else maps + self.bias).permute(0, 3, 1, 2)
            if input.is_cuda and self.out_channels <= _FEW:
                return self._with_more_channels(input)
            if input.is_cpu and shape == ((4, 4), (2, 2), (1, 1)) and self.out_channels <= _FEW:
                return self._interleaved(input)
            if input.is_cpu and _by_patches(self, self.in_channels, input.shape[2:]):
                settings = self.stride, self.padding, True
                return cast(Tensor, _ByPatches.apply(input, self.weight, self.bias, *settings))
        return super().forward(input, output_size)

    def _with_more_channels(self, maps: Tensor) -> Tensor:
        """Return the output maps, from a weight with eight output channels, of which some are 0."""
        weight = F.pad(self.weight, (0, 0, 0, 0, 0, _GROUP - self.out_channels))
        padding = cast("tuple[int, int]", self.padding)
        outputs = F.conv_transpose2d(maps, weight, None, self.stride, padding)
        outputs = outputs[:, : self.out_channels]
        return outputs if self.bias is None else outputs + self.bias[:, None, None]

    def _interleaved(self, maps: Tensor) -> Tensor:
        """Return the output maps. One convolution computes 2 x 2 output pixels per input pixel."""
        padded = F.pad(self.weight, (0, 1, 0, 1))
        kernel = padded[:, :, _EVEN_AND_ODD][..., _EVEN_AND_ODD]
        kernel = kernel.permute(2, 4, 1, 0, 3, 5).flatten(0, 2)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        bias = None if self.bias is None else self.bias.repeat(4)
        pixels = F.conv2d(maps, kernel, bias, padding=1).permute(0, 2, 3, 1)
        pixels = pixels.unflatten(3, (2, 2, self.out_channels)).transpose(2, 3)
        return pixels.flatten(1, 2).flatten(2, 3).permute(0, 3, 1, 2)


def _by_patches(layer: nn.Conv2d | nn.ConvTranspose2d, channels: int, sizes: Sequence[int]) -> bool:
    """Return True if `_ByPatches` is faster for these channels and sizes of the smaller maps."""
    return max(layer.stride) > 1 and max(sizes) <= _SMALL and channels >= _MANY


class _ByPatches(torch.autograd.Function):
    """A convolution that computes its weight gradient as one matrix product.

    One factor holds the pixels of the smaller maps, the other the patches of the larger maps.
    Second derivatives are not supported.
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
    """Return the pixels as rows (batch * height * width, channels)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def _patches(
    maps: Tensor,
    kernel: torch.Size,
    stride: tuple[int, int],
    padding: tuple[int, int],
    positions: torch.Size,
) -> Tensor:
    """Return the patches under the kernel, (batch * positions, kernel size * channels)."""
    (vertical, horizontal), (down, right) = padding, stride
    edges = (0, 0, horizontal, horizontal, vertical, vertical)
    padded = F.pad(maps.permute(0, 2, 3, 1), edges).contiguous()
    batch, rows, columns, one = padded.stride()
    shape = (len(maps), *positions, *kernel, maps.shape[1])
    strides = (batch, rows * down, columns * right, rows, columns, one)
    return padded.as_strided(shape, strides).flatten(3).flatten(0, 2)
