"""Networks: shapes, ranges and what a critic's score depends on."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import nn

from wgan_cli.errors import ConfigError
from wgan_cli.models import dcgan, mlp, resnet

SIZES = [8, 12, 28, 32, 36, 64]
LATENT = 5
NORMS = ["none", "batch", "layer", "group"]
MakeNetwork = Callable[[], nn.Module]


pytestmark = pytest.mark.usefixtures("one_seeded_thread")


def image_shapes() -> list[tuple[int, int, int]]:
    return [(channels, size, size) for size in SIZES for channels in (1, 3)]


def noise(count: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(count, LATENT, generator=torch.Generator().manual_seed(3))


def samples(count: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(4)) * 2 - 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", image_shapes(), ids=str)
def test_dcgan_takes_every_square_size_divisible_by_4(shape: tuple[int, int, int], norm: str):
    generator = dcgan.Generator(LATENT, shape, width=2, norm=norm)
    critic = dcgan.Critic(shape, width=2, norm=norm)
    images = generator(noise(3))
    assert images.shape == (3, *shape)
    assert critic(images).shape == (3,)


@pytest.mark.parametrize("shape", [*image_shapes(), (2,), (3, 5, 7)], ids=str)
def test_mlp_takes_every_shape(shape: tuple[int, ...]):
    generator = mlp.Generator(LATENT, shape, width=8)
    points = generator(noise(3))
    assert points.shape == (3, *shape)
    assert mlp.Critic(shape, width=8)(points).shape == (3,)


@pytest.mark.parametrize("norm", NORMS)
def test_dcgan_has_the_chosen_norm_after_all_but_the_outermost_layers(norm: str):
    generator = dcgan.Generator(LATENT, (3, 32, 32), width=16, norm=norm)
    critic = dcgan.Critic((3, 32, 32), width=16, norm=norm)
    expected = {
        "none": [[], []],
        "batch": [[(64, 0), (32, 0), (16, 0)], [(32, 0), (64, 0)]],
        "layer": [[(64, 1), (32, 1), (16, 1)], [(32, 1), (64, 1)]],
        "group": [[(64, 8), (32, 4), (16, 2)], [(32, 4), (64, 8)]],
    }
    kind = nn.BatchNorm2d if norm == "batch" else nn.GroupNorm
    for network, layers in zip((generator, critic), expected[norm], strict=True):
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
        assert all(isinstance(module, kind) for module in norms)
        channels = [module.weight.numel() for module in norms]
        groups = [getattr(module, "num_groups", 0) for module in norms]
        assert list(zip(channels, groups, strict=True)) == layers
        convolutions = [m for m in network.modules() if hasattr(m, "kernel_size")]
        without_bias = sum(module.bias is None for module in convolutions)
        assert without_bias == (len(layers) if norm == "batch" else 0)


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
        lambda: dcgan.Generator(LATENT, (3, 8, 8), width=2, norm="none"),
    ],
    ids=["mlp", "dcgan", "dcgan without a norm"],
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
        lambda: dcgan.Critic((1, 12, 12), width=4, norm="layer"),
        lambda: dcgan.Critic((1, 12, 12), width=16, norm="group"),
    ],
    ids=["mlp", "dcgan", "dcgan layer", "dcgan group"],
)
def test_without_batch_norm_a_score_depends_only_on_its_own_sample(make: MakeNetwork):
    critic = make()
    batch = samples(6, (1, 12, 12))
    with torch.no_grad():
        together = critic(batch)
        alone = torch.cat([critic(sample[None]) for sample in batch])
        other = critic(torch.cat([batch[:3], 5 * batch[3:].flip(0)]))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together[:3], other[:3], rtol=1e-4, atol=1e-6)


def test_with_batch_norm_a_score_depends_on_its_batch():
    critic = dcgan.Critic((1, 16, 16), width=4, norm="batch")
    batch = samples(6, (1, 16, 16))
    with torch.no_grad():
        together = critic(batch)
        other = critic(torch.cat([batch[:3], 5 * batch[3:]]))
    assert not torch.allclose(together[:3], other[:3])


def test_every_parameter_gets_a_gradient():
    pairs = [
        (mlp.Generator(LATENT, (3, 32, 32), width=8), mlp.Critic((3, 32, 32), width=8)),
        *(
            (
                model.Generator(LATENT, (3, 32, 32), width=8, norm=norm),
                model.Critic((3, 32, 32), width=8, norm=norm),
            )
            for model in (dcgan, resnet)
            for norm in NORMS
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


def reference_dcgan_generator(channels: int, width: int, batch_norm: bool) -> nn.Sequential:
    """The networks for 32x32 written out layer by layer."""
    layers: list[nn.Module] = [nn.ConvTranspose2d(LATENT, 4 * width, 4, bias=not batch_norm)]
    for inner, outer in ((4 * width, 2 * width), (2 * width, width), (width, channels)):
        if batch_norm:
            layers.append(nn.BatchNorm2d(inner))
        bias = outer == channels or not batch_norm
        layers += [nn.ReLU(), nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=bias)]
    return nn.Sequential(*layers, nn.Tanh())


def reference_dcgan_critic(channels: int, width: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for inner, outer in ((width, 2 * width), (2 * width, 4 * width)):
        layers.append(nn.Conv2d(inner, outer, 4, 2, 1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(outer))
        layers.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 4))


def drawn_as_dcgan(network: nn.Sequential) -> nn.Sequential:
    for module in network:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return network


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_dcgan_initial_weights_did_not_change_for_batch_norm_and_none(norm: str):
    batch_norm = norm == "batch"
    images = samples(4, (3, 32, 32))
    for make, reference, inputs in (
        (
            lambda: dcgan.Generator(LATENT, (3, 32, 32), width=8, norm=norm),
            lambda: reference_dcgan_generator(3, 8, batch_norm),
            noise(4),
        ),
        (
            lambda: dcgan.Critic((3, 32, 32), width=8, norm=norm),
            lambda: reference_dcgan_critic(3, 8, batch_norm),
            images,
        ),
    ):
        torch.manual_seed(11)
        network = make()
        torch.manual_seed(11)
        expected = drawn_as_dcgan(reference())
        state = {f"layers.{name}": value for name, value in expected.state_dict().items()}
        assert list(network.state_dict()) == list(state)
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        outputs = inputs if inputs is images else inputs[:, :, None, None]
        assert torch.equal(network(inputs).flatten(), expected(outputs).flatten())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("model", [dcgan, resnet], ids=["dcgan", "resnet"])
@pytest.mark.parametrize("classes", [None, 3])
def test_images_and_scores_in_bfloat16_are_close_to_float32(
    classes: int | None, model: ModuleType, norm: str
):
    generator = model.Generator(LATENT, (1, 28, 28), width=8, norm=norm, classes=classes)
    critic = model.Critic((1, 28, 28), width=8, norm=norm, classes=classes)
    labels = () if classes is None else (torch.tensor([0, 1, 2, 0]),)
    images = generator(noise(4), *labels)
    scores = critic(images, *labels)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = generator(noise(4), *labels)
        rounded = critic(coarse, *labels)
    # bfloat16 has 8 bits of mantissa.
    torch.testing.assert_close(coarse.float(), images, rtol=0.1, atol=0.05)
    torch.testing.assert_close(rounded.float(), scores, rtol=0.1, atol=0.1)
    rounded.float().sum().backward()
    parameters = [*generator.parameters(), *critic.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)


def gradient_penalty(critic: nn.Module, images: torch.Tensor, *labels: torch.Tensor):
    """The gradient penalty (arXiv 1704.00028, equation 3) at the images."""
    images = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(critic(images, *labels).sum(), images, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize(
    ("make", "side"),
    [
        (lambda **more: mlp.Critic((1, 8, 8), width=8, **more), 8),
        *(
            (lambda norm=norm, **more: dcgan.Critic((1, 8, 8), width=16, norm=norm, **more), 8)
            for norm in ("none", "layer", "group")
        ),
        *(
            (lambda norm=norm, **more: resnet.Critic((1, 28, 28), width=16, norm=norm, **more), 28)
            for norm in ("none", "layer", "group")
        ),
    ],
    ids=["mlp", *(f"{m} {n}" for m in ("dcgan", "resnet") for n in ("none", "layer", "group"))],
)
def test_a_gradient_penalty_differentiates_through_every_norm_but_batch(
    make: Callable[..., nn.Module], side: int, classes: int | None
):
    critic = make(classes=classes).double()
    images = samples(3, (1, side, side)).double()
    labels = () if classes is None else (torch.tensor([2, 0, 1]),)
    weights = list(critic.parameters())
    penalty = gradient_penalty(critic, images, *labels)
    slopes = torch.autograd.grad(penalty, weights, materialize_grads=True)
    direction = [torch.randn_like(weight) for weight in weights]
    predicted = sum(float((s * d).sum()) for s, d in zip(slopes, direction, strict=True))
    # A step so small that almost no ReLU changes its sign.
    step, reached = 1e-9, []
    for sign in (1, -1):
        with torch.no_grad():
            torch._foreach_add_(weights, direction, alpha=sign * step)
        reached.append(gradient_penalty(critic, images, *labels).item())
        with torch.no_grad():
            torch._foreach_sub_(weights, direction, alpha=sign * step)
    assert predicted == pytest.approx((reached[0] - reached[1]) / (2 * step), rel=1e-3)
    assert predicted != 0
