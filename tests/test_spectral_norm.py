"""Spectral normalisation, against singular values and slopes computed exactly."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from conftest import exhaustive_beyond
from torch import Tensor, nn

from wgan_cli.constraints import SpectralNorm
from wgan_cli.errors import ConfigError
from wgan_cli.losses import Wasserstein
from wgan_cli.metrics.lipschitz import gradient_norms, layer_gradient_norms, weights_in_use
from wgan_cli.models import dcgan, mlp
from wgan_cli.randomness import Draws, Stream
from wgan_cli.training.updates import Updates

pytestmark = pytest.mark.usefixtures("one_seeded_thread")

CPU = torch.device("cpu")
IMAGE = (1, 16, 16)
RATES = {"adam": 1e-4, "fast_adam": 1e-3, "rmsprop": 5e-4}


def networks(model: str, width: int) -> tuple[nn.Module, nn.Module]:
    if model == "mlp":
        return mlp.Generator(3, IMAGE, width=8), mlp.Critic(IMAGE, width=width)
    return dcgan.Generator(3, IMAGE, width=4), dcgan.Critic(IMAGE, width=width)


def optimizer(name: str, network: nn.Module) -> torch.optim.Optimizer:
    if name == "rmsprop":
        return torch.optim.RMSprop(network.parameters(), lr=RATES[name])
    return torch.optim.Adam(network.parameters(), lr=RATES[name], betas=(0.0, 0.9))


def training(model: str, name: str, width: int = 64) -> Updates:
    generator, critic = networks(model, width)
    constraint = SpectralNorm()
    constraint.wrap(critic)
    optimizers = optimizer(name, generator), optimizer(name, critic)
    return Updates(generator, critic, *optimizers, Wasserstein(), constraint)


def step(updates: Updates, number: int) -> None:
    # Away from 0, as images are: the weights' leading direction then changes within a few steps.
    real = Draws(1, Stream.POINTS, number).uniform((16, *IMAGE), CPU) * 0.5 - 1
    latent = Draws(1, Stream.CRITIC_NOISE, number).normal((16, 3), CPU)
    updates.critic_update(real, latent, Draws(1, Stream.PENALTY, number))
    if number % 5 == 4:
        updates.generator_update(latent)


def largest_singular_values(critic: nn.Module) -> list[float]:
    layers = [m for m in critic.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Embedding)]
    return [
        float(torch.linalg.svdvals(layer.weight.detach().double().flatten(1))[0])
        for layer in layers
    ]


@pytest.mark.parametrize(
    ("model", "rate"),
    exhaustive_beyond(
        [("mlp", "rmsprop"), ("dcgan", "adam")], itertools.product(["mlp", "dcgan"], sorted(RATES))
    ),
)
def test_singular_values_stay_within_a_percent_of_1(model: str, rate: str):
    updates = training(model, rate)
    ones = [1.0] * (4 if model == "mlp" else 3)
    assert largest_singular_values(updates.critic) == pytest.approx(ones, abs=1e-5)
    for number in range(60):
        step(updates, number)
        assert largest_singular_values(updates.critic) == pytest.approx(ones, abs=0.01)


def test_a_single_iteration_is_not_enough():
    """With one iteration, the training above exceeds the bound."""
    updates = training("mlp", "fast_adam")
    updates.constraint.iterations = 1
    furthest = 0.0
    for number in range(30):
        step(updates, number)
        furthest = max(furthest, *largest_singular_values(updates.critic))
    assert furthest > 1.03


def test_a_perceptron_is_1_lipschitz_after_updates():
    updates = training("mlp", "fast_adam")
    for number in range(40):
        step(updates, number)
    critic, bound = updates.critic, 1.01**4
    here, there = torch.randn(500, *IMAGE), torch.randn(500, *IMAGE)
    near = here + 1e-2 * torch.randn_like(here)
    with torch.no_grad():
        for other in (there, near):
            distance = (here - other).flatten(1).norm(dim=1)
            assert bool(((critic(here) - critic(other)).abs() <= bound * distance).all())
    slopes = gradient_norms(critic, here, there, Draws(0, Stream.EVALUATION))
    assert float(slopes.max()) <= bound
    # Without the constraint, the same updates exceed the bound.
    plain = training("mlp", "fast_adam")
    for layer in (m for m in plain.critic.modules() if isinstance(m, nn.Linear)):
        torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    free = Updates(
        plain.generator,
        plain.critic,
        plain.generator_optimizer,
        optimizer("fast_adam", plain.critic),
        Wasserstein(),
        SpectralNorm(),
    )
    for number in range(40):
        step(free, number)
    assert float(gradient_norms(free.critic, here, there, Draws(0, Stream.EVALUATION)).max()) > 2


def test_a_convolution_lengthens_by_no_more_than_its_overlap():
    """docs/constraints.md: ceil(k / s) for each layer, so 2 for each halving of the dcgan."""
    updates = training("dcgan", "fast_adam", width=16)
    for number in range(20):
        step(updates, number)
    real, fake = torch.randn(64, *IMAGE), torch.randn(64, *IMAGE)
    slopes = gradient_norms(updates.critic, real, fake, Draws(0, Stream.EVALUATION))
    halvings = sum(isinstance(m, nn.Conv2d) for m in updates.critic.modules()) - 1
    assert float(slopes.max()) <= 2**halvings * 1.01 ** (halvings + 1)


def test_the_gradient_is_that_of_the_exact_quotient():
    layer = nn.Linear(7, 5, bias=False).double()
    original = layer.weight.detach().clone().requires_grad_()
    exact = original / torch.linalg.matrix_norm(original, 2)
    target = torch.randn(5, 7, dtype=torch.float64)
    (expected,) = torch.autograd.grad((exact * target).sum(), original)
    SpectralNorm().wrap(layer)
    assert torch.allclose(layer.weight, exact)
    (layer.weight * target).sum().backward()
    assert torch.allclose(layer.parametrizations.weight.original.grad, expected, atol=1e-12)


def test_only_after_step_changes_the_singular_vectors():
    updates = training("mlp", "adam")
    step(updates, 0)
    before = {name: value.clone() for name, value in updates.critic.state_dict().items()}
    updates.generator_update(torch.randn(16, 3))
    samples = torch.randn(8, *IMAGE)
    updates.critic(samples)
    layer_gradient_norms(updates.critic, samples)
    updates.constraint.report(updates.critic)
    after = updates.critic.state_dict()
    assert sum(name.endswith(".u") for name in after) == 4
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_training_continues_bit_for_bit_from_a_loaded_state():
    whole = training("mlp", "adam")
    for number in range(3):
        step(whole, number)
    resumed = training("mlp", "adam")
    for part in ("generator", "critic", "generator_optimizer", "critic_optimizer"):
        getattr(resumed, part).load_state_dict(copy.deepcopy(getattr(whole, part).state_dict()))
    for number in range(3, 8):
        step(whole, number)
        step(resumed, number)
    expected = whole.critic.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in resumed.critic.state_dict().items())


def test_weights_in_use_are_the_normalised_ones():
    critic = mlp.Critic((4,), width=8, depth=1)
    with torch.no_grad():
        for layer in (m for m in critic.modules() if isinstance(m, nn.Linear)):
            layer.weight.mul_(100)
    SpectralNorm().wrap(critic)
    matrices = [weight for weight in weights_in_use(critic).values() if weight.ndim == 2]
    assert [tuple(m.shape) for m in matrices] == [(8, 4), (1, 8)]
    assert all(float(torch.linalg.matrix_norm(m, 2)) == pytest.approx(1) for m in matrices)
    assert [name for name, _ in layer_gradient_norms(critic, torch.randn(3, 4))] == [
        "layers.0",
        "layers.2",
    ]


def test_weights_are_float32_under_bfloat16():
    layer = nn.Linear(64, 64)
    SpectralNorm().wrap(layer)
    outside = layer.weight.detach()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, outside)


LAYERS = {
    "one output": nn.Linear(6, 1),
    "one input": nn.Linear(1, 6),
    "one weight": nn.Linear(1, 1),
    "one kernel": nn.Conv2d(3, 1, 4),
    "line": nn.Conv1d(2, 4, 3),
    "transposed": nn.ConvTranspose2d(3, 5, 4),
    "embedding": nn.Embedding(10, 6),
}


def matrix_of(layer: nn.Module) -> Tensor:
    weight = layer.weight.detach()
    if isinstance(layer, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)
    return weight.double().flatten(1)


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_layers_of_every_kind_are_normalised(name: str):
    layer = LAYERS[name]
    constraint = SpectralNorm(4)
    constraint.wrap(layer)
    for _ in range(30):
        assert float(torch.linalg.matrix_norm(matrix_of(layer), 2)) == pytest.approx(1, abs=0.01)
        with torch.no_grad():
            original = layer.parametrizations.weight.original
            original += 0.02 * torch.randn_like(original)
        constraint.after_step(layer)


def test_a_weight_of_zero_stays_zero_and_can_leave():
    layer = nn.Linear(5, 4)
    nn.init.zeros_(layer.weight)
    constraint = SpectralNorm()
    constraint.wrap(layer)
    constraint.after_step(layer)
    assert not bool(layer.weight.any())
    layer(torch.ones(2, 5)).sum().backward()
    original = layer.parametrizations.weight.original
    assert bool(original.grad.isfinite().all())
    with torch.no_grad():
        original[2] = 3.0
    constraint.after_step(layer)
    assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(1)


def test_a_new_leading_direction_orthogonal_to_the_old_one_is_found():
    layer = nn.Linear(6, 6)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([2.0, 1.0, 0.5, 0.4, 0.3, 0.2])))
    constraint = SpectralNorm()
    constraint.wrap(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original[3, 3] = 4.0
    constraint.after_step(layer)
    assert float(layer.weight.detach().max()) == pytest.approx(1, abs=1e-4)


def test_nan_weights_do_not_raise():
    layer = nn.Linear(5, 4)
    constraint = SpectralNorm()
    constraint.wrap(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original[0, 0] = float("nan")
    constraint.after_step(layer)
    assert not bool(layer(torch.ones(1, 5)).isfinite().all())


def test_parametrised_weights_are_refused():
    critic = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 1))
    with pytest.raises(ConfigError, match="already parametrised"):
        SpectralNorm().wrap(critic)


def test_no_iterations_are_refused():
    with pytest.raises(ValueError, match="iterations"):
        SpectralNorm(0)
