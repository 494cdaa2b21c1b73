"""Convolutions for gradient penalties, against finite differences and torch's own layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from wgan_cli.acceleration.piecewise_linear import use_piecewise_linear_activations
from wgan_cli.acceleration.twice_differentiable import use_twice_differentiable_convolutions
from wgan_cli.constraints import GradientPenalty
from wgan_cli.constraints.base import LINEAR, layer_names
from wgan_cli.models import dcgan, mlp, resnet
from wgan_cli.randomness import Draws, Stream

pytestmark = pytest.mark.usefixtures("one_seeded_thread")

LAYERS = {
    "same size": (nn.Conv2d(2, 3, 3, padding=1), (2, 4, 3)),
    "no bias": (nn.Conv2d(2, 3, 1, bias=False), (2, 3, 3)),
    "stride and padding by axis": (nn.Conv2d(2, 2, (3, 2), (2, 1), (1, 0)), (2, 5, 3)),
    "a row of pixels left over": (nn.Conv2d(1, 2, 2, 2), (1, 5, 4)),
    "dilation and groups": (nn.Conv2d(4, 2, 2, padding=1, dilation=2, groups=2), (4, 4, 4)),
    "line": (nn.Conv1d(2, 3, 3, 2, 1), (2, 7)),
    "volume": (nn.Conv3d(1, 2, 2), (1, 3, 2, 3)),
    "transposed": (nn.ConvTranspose2d(2, 3, 4, 2, 1), (2, 3, 2)),
    "output padding": (nn.ConvTranspose2d(2, 2, 3, 2, 1, output_padding=1, bias=False), (2, 2, 2)),
    "transposed, groups": (nn.ConvTranspose2d(2, 4, 2, groups=2, dilation=2), (2, 2, 3)),
    "transposed line": (nn.ConvTranspose1d(2, 3, 3, 2), (2, 3)),
    "transposed volume": (nn.ConvTranspose3d(1, 2, 2), (1, 2, 1, 2)),
}


def pair(module: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Torch's layers and ours, of float64, with the same weights."""
    torchs = copy.deepcopy(module).double()
    ours = copy.deepcopy(torchs)
    use_twice_differentiable_convolutions(ours)
    return torchs, ours


def weights(layer: nn.Module) -> list[nn.Parameter]:
    return list(layer.parameters())


def penalty_gradients(critic: nn.Module, *shape: int) -> list[Tensor | None]:
    """The gradients of WGAN-GP's penalty by the critic's weights."""
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 3, *shape, generator=generator, dtype=torch.float64)
    draws = Draws(0, Stream.PENALTY)
    penalty = GradientPenalty().penalty(critic, real, fake, draws)
    return list(torch.autograd.grad(penalty, weights(critic), allow_unused=True))


@pytest.mark.parametrize("name", LAYERS)
def test_first_and_second_derivatives_are_finite_differences(name: str) -> None:
    layer, shape = LAYERS[name]
    _, ours = pair(layer)
    assert type(ours) is not type(layer)
    maps = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)

    def output(maps: Tensor, *parameters: Tensor) -> Tensor:
        names = [name for name, _ in ours.named_parameters()]
        return torch.func.functional_call(ours, dict(zip(names, parameters, strict=True)), maps)

    assert torch.autograd.gradcheck(output, (maps, *weights(ours)), fast_mode=True)
    assert torch.autograd.gradgradcheck(output, (maps, *weights(ours)))


@pytest.mark.parametrize("asked", ["maps", "weights", "both"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_derivatives_are_torchs_for_any_selection_of_gradients(
    asked: str, layout: torch.memory_format
) -> None:
    """Some of the second-order gradients then do not exist."""
    layer = nn.Conv2d(3, 4, 3, 2, 1).to(memory_format=layout)
    found = []
    for each in pair(layer):
        torch.manual_seed(1)
        maps = torch.randn(2, 3, 6, 5, dtype=torch.float64)
        maps = maps.contiguous(memory_format=layout).requires_grad_()
        by = {"maps": [maps], "weights": weights(each), "both": [maps, *weights(each)]}[asked]
        output = each(maps)
        cotangent = torch.randn_like(output, requires_grad=True)
        first = torch.autograd.grad(output, by, cotangent, create_graph=True)
        scalar = sum((gradient * torch.randn_like(gradient)).sum() for gradient in first)
        every = [cotangent, maps, *weights(each)]
        second = torch.autograd.grad(scalar, every, allow_unused=True)
        found.append([output, *first, *second])
    for expected, ours in zip(*found, strict=True):
        if expected is None or not bool(expected.any()):
            assert ours is None or not bool(ours.any())
        else:
            assert torch.allclose(ours, expected, rtol=1e-12, atol=1e-12)


CRITICS = {
    "resnet": lambda: resnet.Critic((3, 32, 32), width=8),
    "resnet with layer norm": lambda: resnet.Critic((3, 32, 32), width=8, norm="layer"),
    "dcgan": lambda: dcgan.Critic((3, 32, 32), width=8),
    "mlp": lambda: mlp.Critic((3, 32, 32), width=8),
}


@pytest.mark.parametrize("piecewise", [False, True])
@pytest.mark.parametrize("name", CRITICS)
def test_the_penaltys_gradient_is_that_of_torchs_layers(name: str, piecewise: bool) -> None:
    torchs, ours = pair(CRITICS[name]())
    if piecewise:
        use_piecewise_linear_activations(ours)
    found = penalty_gradients(ours, 3, 32, 32)
    for expected, own in zip(penalty_gradients(torchs, 3, 32, 32), found, strict=True):
        if expected is None or own is None:
            given = expected if own is None else own
            assert given is None or not bool(given.any())
        else:
            scale = float(expected.abs().max())
            assert torch.allclose(own, expected, rtol=1e-9, atol=1e-12 * scale)


class Recorded(TorchDispatchMode):
    """Notes the convolutions that run: the sides of their kernel, and the gradients they make."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[tuple[int, ...]] = []
        self.masks: list[tuple[bool, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name == "aten::convolution":
            self.kernels.append(tuple(args[1].shape[2:]))
        elif name == "aten::convolution_backward":
            self.kernels.append(tuple(args[2].shape[2:]))
            self.masks.append(tuple(args[-1]))
        return func(*args, **(kwargs or {}))


def test_no_kernel_is_as_large_as_the_map() -> None:
    torchs, ours = pair(resnet.Critic((3, 32, 32), width=4))
    kernels = []
    for critic in (torchs, ours):
        with Recorded() as recorded:
            penalty_gradients(critic, 3, 32, 32)
        kernels.append(recorded.kernels)
    assert max(kernels[0]) >= (32, 32)
    assert set(kernels[1]) == {(1, 1), (3, 3)}


def test_gradients_that_nobody_asked_for_are_not_computed() -> None:
    _, ours = pair(dcgan.Critic((3, 32, 32), width=4))
    samples = torch.randn(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    with Recorded() as recorded:
        torch.autograd.grad(ours(samples).sum(), samples, create_graph=True)
    assert set(recorded.masks) == {(True, False, False)}
    with Recorded() as recorded:
        ours(samples.detach()).sum().backward()
    assert sorted(recorded.masks) == [(False, True, True), *[(True, True, True)] * 3]


def test_a_penalty_does_not_return_through_the_forward_pass() -> None:
    """Each layer needs two gradients: first that of the maps, then the second-order one."""
    _, critic = pair(dcgan.Critic((3, 32, 32), width=4))
    use_piecewise_linear_activations(critic)
    with Recorded() as recorded:
        penalty_gradients(critic, 3, 32, 32)
    assert sorted(recorded.masks) == [(False, True, False)] * 4 + [(True, False, False)] * 4


@pytest.mark.parametrize("layer", [nn.ReLU(inplace=True), nn.LeakyReLU(0.2), nn.LeakyReLU(0.0)])
def test_activations_and_their_derivatives_are_torchs(layer: nn.Module) -> None:
    ours = copy.deepcopy(layer)
    use_piecewise_linear_activations(ours)
    assert isinstance(ours, type(layer))
    found = []
    for each in (layer, ours):
        torch.manual_seed(0)
        values = torch.randn(50, requires_grad=True)
        output = each(values * 2)
        cotangent = torch.randn(50, requires_grad=True)
        (first,) = torch.autograd.grad(output, values, cotangent, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), cotangent)
        found.append((output, first, second))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_only_plain_layers_change_and_keep_what_they_are() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 1, 3), nn.Linear(4, 4))
    others = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding="same"),
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 2, 3)),
    )
    types = [type(layer) for layer in others]
    network = nn.Sequential(plain, others)
    state, names = copy.deepcopy(network.state_dict()), layer_names(network, LINEAR)
    use_twice_differentiable_convolutions(network)
    assert [type(layer) for layer in others] == types
    assert [type(layer).__name__ for layer in plain] == [
        "TwiceDifferentiableConv2d",
        "TwiceDifferentiableConvTranspose2d",
        "Linear",
    ]
    assert "TwiceDifferentiableConv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))" in repr(network)
    assert layer_names(network, LINEAR) == names
    copied = copy.deepcopy(network)
    copied.load_state_dict(state)
    assert [type(layer) for layer in copied.modules()] == [type(m) for m in network.modules()]
    maps = torch.randn(2, 1, 6, 4)
    assert torch.equal(copied[0](maps), network[0](maps))


def test_other_calls_are_torchs() -> None:
    torchs, ours = pair(nn.ConvTranspose2d(2, 3, 3, 2, 1))
    maps = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    assert torch.equal(ours(maps[0]), torchs(maps[0]))
    assert torch.equal(ours(maps, output_size=[8, 8]), torchs(maps, output_size=[8, 8]))
    torchs, ours = torchs.float(), ours.float()
    for layer in (torchs, ours):
        with torch.autocast("cpu", torch.bfloat16):
            layer(maps.float()).square().sum().backward()
    for expected, found in zip(weights(torchs), weights(ours), strict=True):
        assert torch.equal(found.grad, expected.grad)
