"""A bf16 copy's own ways to compute convolutions, against torch's in float64 and bfloat16."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wgan_cli.acceleration.bf16_copy import bf16_copy_of
from wgan_cli.acceleration.fast_convolutions import (
    Convolution,
    TransposedConvolution,
    use_fast_convolutions,
)
from wgan_cli.models import dcgan

pytestmark = pytest.mark.usefixtures("one_seeded_thread")

LAYERS = {
    "whole map": (nn.Conv2d(6, 1, 4), (6, 4, 4)),
    "whole map, several scores": (nn.Conv2d(6, 5, (4, 3), bias=False), (6, 4, 3)),
    "small maps": (nn.Conv2d(6, 256, 4, 2, 1), (6, 8, 8)),
    "small maps of all shapes": (nn.Conv2d(3, 256, (3, 2), (2, 3), (0, 1)), (3, 11, 14)),
    "no bias": (nn.Conv2d(2, 256, 4, 2, 1, bias=False), (2, 16, 16)),
    "from small maps": (nn.ConvTranspose2d(256, 5, 4, 2, 1), (256, 4, 4)),
    "from small maps of all shapes": (nn.ConvTranspose2d(256, 2, (3, 2), (2, 3)), (256, 3, 2)),
    "one pixel": (nn.ConvTranspose2d(6, 5, (4, 3)), (6, 1, 1)),
    "one pixel without bias": (nn.ConvTranspose2d(6, 5, 4, bias=False), (6, 1, 1)),
    "to an image": (nn.ConvTranspose2d(6, 3, 4, 2, 1), (6, 8, 8)),
    "to a grey image, not square": (nn.ConvTranspose2d(6, 1, 4, 2, 1, bias=False), (6, 3, 5)),
}
# For these nothing is gained.
OTHERS = {
    "large maps": (nn.Conv2d(3, 256, 4, 2, 1), (3, 32, 32)),
    "few channels": (nn.Conv2d(3, 4, 4, 2, 1), (3, 8, 8)),
    "no stride": (nn.Conv2d(3, 256, 3, 1, 1), (3, 8, 8)),
    "to many channels": (nn.ConvTranspose2d(6, 8, 4, 2, 1), (6, 8, 8)),
    "one pixel, cut": (nn.ConvTranspose2d(6, 5, 4, 2, 1), (6, 1, 1)),
}


def both(layer: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    own = copy.deepcopy(layer).to(dtype=dtype, memory_format=torch.channels_last)
    other = copy.deepcopy(own)
    use_fast_convolutions(other)
    return own, other


def results(layer: nn.Module, maps: Tensor) -> list[Tensor]:
    """The output, and the gradients of maps, weight and bias by a random one of the output."""
    maps = maps.clone().requires_grad_(True)
    made = layer(maps)
    made.backward(torch.randn(made.shape, generator=torch.manual_seed(1)).to(made))
    return [made, *(tensor.grad for tensor in (maps, *layer.parameters()))]


def maps_of(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.randn(5, *shape, generator=torch.manual_seed(0)).to(dtype)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", [*LAYERS, *OTHERS])
def test_outputs_and_gradients_are_torchs(name: str, layout: torch.memory_format) -> None:
    layer, shape = (LAYERS | OTHERS)[name]
    own, other = both(layer, torch.float64)
    assert type(other) in (Convolution, TransposedConvolution)
    maps = maps_of(shape, torch.float64).contiguous(memory_format=layout)
    for expected, found in zip(results(own, maps), results(other, maps), strict=True):
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_is_rounded_no_more_than_torchs(name: str) -> None:
    layer, shape = LAYERS[name]
    exact, _ = both(copy.deepcopy(layer).bfloat16(), torch.float64)
    own, other = both(layer, torch.bfloat16)
    maps = maps_of(shape, torch.bfloat16)
    for truth, expected, found in zip(
        results(exact, maps.double()), results(own, maps), results(other, maps), strict=True
    ):
        assert found.dtype == torch.bfloat16
        allowed = 1.5 * (expected - truth).norm() + 2**-9 * truth.norm()
        assert (found - truth).norm() <= allowed


@pytest.mark.parametrize("name", [*LAYERS, *OTHERS])
def test_torchs_own_way_is_gone_just_where_another_is_faster(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, shape = (LAYERS | OTHERS)[name]
    _, other = both(layer, torch.float64)
    calls = []
    for kind in (nn.Conv2d, nn.ConvTranspose2d):

        def noting(*given: Any, own: Callable[..., Tensor] = kind.forward) -> Tensor:
            calls.append(1)
            return own(*given)

        monkeypatch.setattr(kind, "forward", noting)
    results(other, maps_of(shape, torch.float64))
    assert len(calls) == (name in OTHERS)


@pytest.mark.parametrize("name", LAYERS)
def test_an_image_without_a_batch_is_torchs(name: str) -> None:
    layer, shape = LAYERS[name]
    own, other = both(layer, torch.float64)
    image = maps_of(shape, torch.float64)[0]
    assert torch.equal(own(image), other(image))


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("name", LAYERS)
def test_a_batch_may_be_of_one_or_none(name: str, batch: int) -> None:
    layer, shape = LAYERS[name]
    own, other = both(layer, torch.float64)
    maps = maps_of(shape, torch.float64)[:batch]
    for expected, found in zip(results(own, maps), results(other, maps), strict=True):
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_no_derivative_of_a_gradient_is_made_up() -> None:
    layer, shape = LAYERS["small maps"]
    _, other = both(layer, torch.float64)
    maps = maps_of(shape, torch.float64).requires_grad_(True)
    (gradient,) = torch.autograd.grad(other(maps).square().sum(), maps, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 4, 2, 1, groups=2),
        nn.Conv2d(4, 4, 3, 2, 2, dilation=2),
        nn.Conv2d(4, 4, 4, 2, 1, padding_mode="circular"),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.ConvTranspose2d(4, 3, 4, 2, 1, output_padding=1),
        nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=2),
        nn.Linear(3, 3),
    ],
    ids=str,
)
def test_what_is_not_known_stays_as_it_is(layer: nn.Module) -> None:
    before = type(layer)
    use_fast_convolutions(layer)
    assert type(layer) is before


def test_frozen_weights_and_maps_get_no_gradients() -> None:
    layer, shape = LAYERS["small maps"]
    _, other = both(layer, torch.float64)
    other.requires_grad_(False)
    maps = maps_of(shape, torch.float64).requires_grad_(True)
    other(maps).sum().backward()
    assert maps.grad is not None
    assert other.weight.grad is None
    other.requires_grad_(True)
    other(maps.detach()).sum().backward()
    assert other.weight.grad is not None


def test_a_dcgans_bf16_copy_has_them_and_its_network_does_not() -> None:
    generator, critic = dcgan.Generator(6, (3, 32, 32), 8), dcgan.Critic((3, 32, 32), 8)
    latent, images = torch.randn(4, 6), torch.randn(4, 3, 32, 32)
    for network, inputs in ((generator, latent), (critic, images)):
        bf16_copy = bf16_copy_of(network)
        assert bf16_copy is not None
        quickened = {Convolution, TransposedConvolution}
        assert not {type(module) for module in network.modules()} & quickened
        assert {type(module) for module in bf16_copy.modules()} & quickened
        assert torch.allclose(bf16_copy(inputs.bfloat16()).float(), network(inputs), atol=0.02)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 16, 4, 2, 1), (3, 16, 16)),
        (nn.Conv2d(1, 8, 3, 1, 1, bias=False), (1, 8, 8)),
        (nn.ConvTranspose2d(6, 3, 4, 2, 1), (6, 8, 8)),
        (nn.ConvTranspose2d(6, 1, (3, 2), (2, 1), bias=False), (6, 4, 5)),
    ],
    ids=["colours", "grey", "to colours", "to grey"],
)
def test_eight_channels_of_which_some_are_zero_give_what_few_do(
    layer: nn.Module, shape: Sequence[int], layout: torch.memory_format
) -> None:
    """The form for CUDA, computed on the CPU."""
    own, other = both(layer, torch.float64)
    assert isinstance(other, Convolution | TransposedConvolution)
    other.forward = other._with_more_channels  # type: ignore[method-assign, assignment]
    maps = maps_of(shape, torch.float64).contiguous(memory_format=layout)
    for one, expected in zip(results(other, maps), results(own, maps), strict=True):
        assert torch.allclose(one, expected, rtol=1e-12, atol=1e-12)
