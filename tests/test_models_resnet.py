"""Residual networks: supported sizes, the paper's architecture, the authors' initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wgan_cli.errors import ConfigError
from wgan_cli.models import resnet
from wgan_cli.models.pooling import halved

SIDES = [28, 32, 40, 48, 56, 64, 80, 96, 112, 128]
LATENT = 6

pytestmark = pytest.mark.usefixtures("one_seeded_thread")


def noise(count: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, LATENT, generator=torch.Generator().manual_seed(3))


def samples(count: int, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(4)) * 2 - 1


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("channels", [1, 3])
@torch.no_grad()
def test_it_supports_these_sizes(side: int, channels: int):
    shape = (channels, side, side)
    images = resnet.Generator(LATENT, shape, width=4)(noise(2))
    assert images.shape == (2, *shape)
    assert resnet.Critic(shape, width=4)(images).shape == (2,)


@pytest.mark.parametrize(
    "shape",
    [
        (2,),
        (1, 8, 8),
        (1, 24, 24),
        (1, 30, 30),
        (3, 32, 64),
        (3, 44, 44),
        (3, 72, 72),
        (3, 160, 160),
    ],
    ids=str,
)
def test_it_refuses_other_sizes_and_names_alternatives(shape: tuple[int, ...]):
    for make in (lambda: resnet.Generator(LATENT, shape), lambda: resnet.Critic(shape)):
        with pytest.raises(ConfigError) as refused:
            make()
        assert "type model=mlp" in str(refused.value)
        named = "28, 32, 40, 48, 56, 64, 80, 96, 112 or 128 pixels"
        assert (named in str(refused.value)) == (len(shape) == 3)


def convolution(inner: int, outer: int, kernel: int) -> int:
    return inner * outer * kernel**2 + outer


def test_at_32_pixels_its_size_is_that_of_the_papers_cifar_networks():
    # arXiv 1704.00028, appendix: 4x4x128, three blocks up, 3x3 to the image; batch norms have a
    # scale and a shift.
    conv, shortcut, norm = convolution(128, 128, 3), convolution(128, 128, 1), 2 * 128
    up = 2 * norm + 2 * conv + shortcut
    generator = (128 + 1) * 4 * 4 * 128 + 3 * up + norm + convolution(128, 3, 3)
    assert size(resnet.Generator(128, (3, 32, 32))) == generator == 1_204_483
    # An image block, a block down and two more, and a linear layer on the mean.
    first = convolution(3, 128, 3) + conv + convolution(3, 128, 1)
    critic = first + (2 * conv + shortcut) + 2 * 2 * conv + (128 + 1)
    assert size(resnet.Critic((3, 32, 32))) == critic == 1_053_825


@pytest.mark.parametrize(
    ("side", "from_inside", "critic_from_outside"),
    [
        (28, [128] * 3, [128] * 2),
        (32, [128] * 4, [128] * 2),
        (48, [512, 256, 128, 64], [64, 128, 256, 512]),
        # gan_64x64.py of the authors, with its width of 64.
        (64, [512, 512, 256, 128, 64], [64, 128, 256, 512]),
        (128, [512, 512, 512, 256, 128, 64], [64, 128, 256, 512, 512]),
    ],
)
def test_the_channels_of_the_maps(
    side: int, from_inside: list[int], critic_from_outside: list[int]
):
    generator = resnet.Generator(LATENT, (3, side, side))
    blocks = list(generator.blocks)
    found = [blocks[0].conv1.in_channels, *(block.conv2.out_channels for block in blocks)]
    assert found == from_inside
    assert side == generator.start[1] * 2 ** len(blocks)
    critic = list(resnet.Critic((3, side, side)).blocks)
    halving = [b for b in critic if not isinstance(getattr(b, "shortcut", None), nn.Identity)]
    first = halving[0]
    expected = critic_from_outside if side > 32 else [128, *critic_from_outside]
    assert [first.conv1.out_channels, *(b.conv2.out_channels for b in halving)] == expected
    assert len(critic) == len(halving) + 2


def uniform_within(weight: Tensor, gain: float) -> bool:
    """Whether weights look uniform with variance gain² 2 / (fan-in + fan-out)."""
    area = weight[0, 0].numel() if weight.ndim == 4 else 1
    bound = gain * math.sqrt(6 / (area * (weight.shape[0] + weight.shape[1])))
    flat = weight.detach().flatten().abs() / bound
    spread = flat.square().mean() - 1 / 3
    return bool(flat.max() <= 1) and bool(spread.abs() < 5 * 0.3 / math.sqrt(flat.numel()))


def test_weights_are_hes_before_a_relu_and_xaviers_elsewhere_and_biases_zero():
    he = math.sqrt(2)
    for network in (resnet.Generator(LATENT, (3, 32, 32)), resnet.Critic((3, 32, 32))):
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any()
            elif parameter.ndim > 1:
                gain = he if name.split(".")[-2] in ("conv1", "conv2") else 1
                assert uniform_within(parameter, gain), name
                assert not uniform_within(parameter, 2 * gain), name


def up_block(block: nn.Module, maps: Tensor) -> Tensor:
    """As in the paper's figure: all convolutions, also the shortcut's, follow the up-sampling."""

    def doubled(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    hidden = block.conv1(doubled(F.relu(block.norm1(maps))))
    return block.conv2(F.relu(block.norm2(hidden))) + block.shortcut(doubled(maps))


def quartered(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


@torch.no_grad()
def test_the_generator_is_the_papers():
    generator = resnet.Generator(LATENT, (3, 32, 32), width=8)
    for parameter in generator.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    maps = generator.first(noise(5)).view(5, 8, 4, 4)
    for block in generator.blocks:
        maps = up_block(block, maps)
    expected = torch.tanh(generator.last(F.relu(generator.norm(maps))))
    torch.testing.assert_close(generator(noise(5)), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_the_critic_is_the_papers(norm: str):
    critic = resnet.Critic((3, 32, 32), width=8, norm=norm)
    for parameter in critic.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    images = samples(5, (3, 32, 32))
    first, down, *plain = critic.blocks
    maps = quartered(first.conv2(F.relu(first.conv1(images)))) + first.shortcut(quartered(images))
    residue = down.conv2(F.relu(down.norm2(down.conv1(F.relu(down.norm1(maps))))))
    maps = quartered(residue) + quartered(down.shortcut(maps))
    for block in plain:
        residue = block.conv2(F.relu(block.norm2(block.conv1(F.relu(block.norm1(maps))))))
        maps = maps + residue
    assert maps.shape == (5, 8, 8, 8)
    expected = critic.last(F.relu(maps).mean((2, 3)))[:, 0]
    torch.testing.assert_close(critic(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "group"])
def test_images_fill_but_never_leave_minus_one_to_one(norm: str):
    generator = resnet.Generator(LATENT, (3, 28, 28), width=4, norm=norm)
    with torch.no_grad():
        generator.last.weight.mul_(100)
        images = generator(noise(8, scale=10.0))
    assert images.abs().max() <= 1
    assert images.min() < -0.9
    assert images.max() > 0.9


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "group"])
@torch.no_grad()
def test_without_batch_norm_a_score_depends_only_on_its_own_image(norm: str):
    critic = resnet.Critic((1, 28, 28), width=16, norm=norm)
    batch = samples(4, (1, 28, 28))
    together = critic(batch)[:2]
    other = critic(torch.cat([batch[:2], 5 * batch[2:].flip(0)]))[:2]
    assert torch.allclose(together, other, rtol=1e-4, atol=1e-5) == (norm != "batch")


@torch.no_grad()
def test_a_trained_generators_image_depends_only_on_its_own_latent():
    generator = resnet.Generator(LATENT, (1, 28, 28), width=8)
    for _ in range(3):
        generator(noise(16))
    generator.eval()
    together = generator(noise(4))
    alone = torch.cat([generator(one[None]) for one in noise(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_names_of_the_weights_do_not_change():
    block = ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]
    shortcut = ["shortcut.weight", "shortcut.bias"]
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    norms = {part: [f"{part}.{name}" for name in statistics] for part in ("norm", "norm1", "norm2")}
    up = [*norms["norm1"], *block[:2], *norms["norm2"], *block[2:], *shortcut]
    ends = ["last.weight", "last.bias"]
    assert list(resnet.Generator(LATENT, (1, 28, 28), width=4).state_dict()) == [
        *("first.weight", "first.bias"),
        *(f"blocks.{i}.{name}" for i in range(2) for name in up),
        *(*norms["norm"], *ends),
    ]
    assert list(resnet.Critic((1, 28, 28), width=4).state_dict()) == [
        *(f"blocks.{i}.{name}" for i in range(2) for name in (*block, *shortcut)),
        *(f"blocks.{i}.{name}" for i in (2, 3) for name in block),
        *ends,
    ]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_halving_is_torchs_average_pooling_with_all_its_derivatives(layout: torch.memory_format):
    maps = samples(2, (3, 6, 8)).double().contiguous(memory_format=layout).requires_grad_()

    def derivatives(pool: Callable[[Tensor], Tensor]) -> list[Tensor]:
        pooled = pool(maps.square())
        (first,) = torch.autograd.grad(pooled.square().sum(), maps, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), maps)
        return [pooled, first, second]

    expected = derivatives(lambda squares: F.avg_pool2d(squares, 2))
    for one, other in zip(derivatives(halved), expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-12)
    assert torch.autograd.gradgradcheck(halved, maps)
