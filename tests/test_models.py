"""Networks: shapes, ranges and what a critic's score depends on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from wgan_cli.errors import ConfigError
from wgan_cli.models import dcgan, mlp

SIZES = [8, 12, 28, 32, 36, 64]
LATENT = 5
MakeNetwork = Callable[[], nn.Module]


pytestmark = pytest.mark.usefixtures("one_seeded_thread")


def image_shapes() -> list[tuple[int, int, int]]:
    return [(channels, size, size) for size in SIZES for channels in (1, 3)]


def noise(count: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(count, LATENT, generator=torch.Generator().manual_seed(3))


def samples(count: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(4)) * 2 - 1


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("shape", image_shapes(), ids=str)
def test_dcgan_takes_every_square_size_divisible_by_4(shape: tuple[int, int, int], batch_norm):
    generator = dcgan.Generator(LATENT, shape, width=2, batch_norm=batch_norm)
    critic = dcgan.Critic(shape, width=2, batch_norm=batch_norm)
    images = generator(noise(3))
    assert images.shape == (3, *shape)
    assert critic(images).shape == (3,)


@pytest.mark.parametrize("shape", [*image_shapes(), (2,), (3, 5, 7)], ids=str)
def test_mlp_takes_every_shape(shape: tuple[int, ...]):
    generator = mlp.Generator(LATENT, shape, width=8)
    points = generator(noise(3))
    assert points.shape == (3, *shape)
    assert mlp.Critic(shape, width=8)(points).shape == (3,)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_batch_norm_is_there_only_when_asked_for(batch_norm: bool):
    networks = [
        dcgan.Generator(LATENT, (3, 32, 32), width=2, batch_norm=batch_norm),
        dcgan.Critic((3, 32, 32), width=2, batch_norm=batch_norm),
    ]
    for network in networks:
        found = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        assert found == batch_norm


@pytest.mark.parametrize("make", [mlp.Critic, dcgan.Critic])
def test_a_batch_of_one_keeps_its_axis(make: Callable[..., nn.Module]):
    assert make((1, 8, 8), width=4)(samples(1, (1, 8, 8))).shape == (1,)


def test_paper_mlp_has_three_hidden_layers_of_512_with_relu():
    for network, first, last in (
        (mlp.Generator(LATENT, (2,)), LATENT, 2),
        (mlp.Critic((2,)), 2, 1),
    ):
        linear = [(m.in_features, m.out_features) for m in network.layers if hasattr(m, "bias")]
        assert linear == [(first, 512), (512, 512), (512, 512), (512, last)]
        assert sum(isinstance(m, nn.ReLU) for m in network.layers) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp.Generator(LATENT, (1, 8, 8), width=8),
        lambda: dcgan.Generator(LATENT, (3, 8, 8), width=2),
        lambda: dcgan.Generator(LATENT, (3, 8, 8), width=2, batch_norm=False),
    ],
    ids=["mlp", "dcgan", "dcgan without BatchNorm"],
)
def test_images_fill_but_never_leave_minus_one_to_one(make: MakeNetwork):
    generator = make()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(100)
        images = generator(noise(16, scale=100.0))
    assert images.abs().max() <= 1
    assert images.min() < -0.9
    assert images.max() > 0.9


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp.Generator(64, (2,), width=8),
        lambda: mlp.Critic((64,), width=8),
        lambda: dcgan.Critic((1, 8, 8), width=4),
    ],
    ids=["mlp points", "mlp scores", "dcgan scores"],
)
@torch.no_grad()
def test_points_and_scores_are_linear_in_the_last_layer_so_unbounded(make: MakeNetwork):
    network = make()
    inputs = samples(16, (64,) if isinstance(network.layers[0], nn.Linear) else (1, 8, 8))
    before = network(inputs)
    for parameter in network.layers[-1].parameters():
        parameter.mul_(-1e4)
    torch.testing.assert_close(network(inputs), -1e4 * before, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp.Critic((1, 12, 12), width=16),
        lambda: dcgan.Critic((1, 12, 12), width=4),
    ],
    ids=["mlp", "dcgan"],
)
def test_without_batch_norm_a_score_is_of_its_own_sample_alone(make: MakeNetwork):
    critic = make()
    batch = samples(6, (1, 12, 12))
    with torch.no_grad():
        together = critic(batch)
        alone = torch.cat([critic(sample[None]) for sample in batch])
        other = critic(torch.cat([batch[:3], 5 * batch[3:].flip(0)]))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together[:3], other[:3], rtol=1e-4, atol=1e-6)


def test_with_batch_norm_a_score_depends_on_its_batch():
    critic = dcgan.Critic((1, 16, 16), width=4, batch_norm=True)
    batch = samples(6, (1, 16, 16))
    with torch.no_grad():
        together = critic(batch)
        other = critic(torch.cat([batch[:3], 5 * batch[3:]]))
    assert not torch.allclose(together[:3], other[:3])


def test_every_parameter_gets_a_gradient():
    pairs = [
        (mlp.Generator(LATENT, (3, 32, 32), width=8), mlp.Critic((3, 32, 32), width=8)),
        (
            dcgan.Generator(LATENT, (3, 32, 32), width=2),
            dcgan.Critic((3, 32, 32), width=2, batch_norm=True),
        ),
    ]
    for generator, critic in pairs:
        critic(generator(noise(8))).sum().backward()
        for parameter in [*generator.parameters(), *critic.parameters()]:
            assert parameter.grad is not None


@pytest.mark.parametrize("shape", [(1, 8, 12), (1, 30, 30), (3, 6, 6), (1, 2, 2), (2,)], ids=str)
def test_dcgan_refuses_what_it_cannot_halve(shape: tuple[int, ...]):
    with pytest.raises(ConfigError, match="model=mlp"):
        dcgan.Generator(LATENT, shape)
    with pytest.raises(ConfigError, match="model=mlp"):
        dcgan.Critic(shape)
