"""Class-conditional networks: the effect of a class, and that unconditional networks have none."""

from __future__ import annotations

import inspect
import math
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from wgan_cli.models import dcgan, lipschitz, mlp, parallel_lines, resnet
from wgan_cli.models.conditional import ClassLatent, Projection

SHAPE = (1, 28, 28)
LATENT = 5
CLASSES = 4
MODELS = pytest.mark.parametrize("model", [mlp, dcgan, resnet], ids=["mlp", "dcgan", "resnet"])

pytestmark = pytest.mark.usefixtures("one_seeded_thread")


def noise(count: int) -> Tensor:
    return torch.randn(count, LATENT, generator=torch.Generator().manual_seed(3))


def samples(count: int) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(4)) * 2 - 1


def made(model: ModuleType) -> tuple[nn.Module, nn.Module]:
    """Conditional networks whose weights all differ from their initial values."""
    pair = (
        model.Generator(LATENT, SHAPE, width=8, classes=CLASSES),
        model.Critic(SHAPE, width=8, classes=CLASSES),
    )
    with torch.no_grad():
        for network in pair:
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return pair


@MODELS
@torch.no_grad()
def test_a_class_changes_only_its_own_sample_and_score(model: ModuleType):
    generator, critic = (network.eval() for network in made(model))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    others = torch.tensor([0, 1, 2, 0, 1, 2])
    same = labels == others
    images = generator(noise(6), labels)
    assert images.shape == (6, *SHAPE)
    changed = (generator(noise(6), others) - images).abs().amax((1, 2, 3)) > 1e-4
    assert torch.equal(changed, ~same)
    scores = critic(samples(6), labels)
    assert scores.shape == (6,)
    changed = (critic(samples(6), others) - scores).abs() > 1e-5
    assert torch.equal(changed, ~same)


def last_layer(critic: nn.Module) -> nn.Module:
    return critic.last if hasattr(critic, "last") else critic.layers[-1]


@MODELS
@torch.no_grad()
def test_a_score_is_linear_in_the_features_with_a_row_for_each_class(model: ModuleType):
    _, critic = made(model)
    last = last_layer(critic)
    seen: list[Tensor] = []
    handle = last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    labels = torch.tensor([3, 0, 2, 2, 1])
    scores = critic(samples(5), labels)
    handle.remove()
    features = seen[0].flatten(1)
    rows = last.weight.flatten() + critic.projection.vectors.weight
    expected = [row @ phi + last.bias[0] for row, phi in zip(rows[labels], features, strict=True)]
    torch.testing.assert_close(scores, torch.stack(expected), rtol=1e-4, atol=1e-5)


@MODELS
def test_the_gradient_includes_the_projection(model: ModuleType):
    critic = made(model)[1].double()
    images = samples(4).double().requires_grad_()
    labels = torch.tensor([3, 0, 2, 1])
    (slope,) = torch.autograd.grad(critic(images, labels).sum(), images)
    direction = torch.randn_like(images)
    # A step so small that almost no ReLU changes its sign.
    step = 1e-8 * direction
    with torch.no_grad():
        change = critic(images + step, labels) - critic(images - step, labels)
    expected = (slope * direction).sum((1, 2, 3))
    torch.testing.assert_close(change / 2e-8, expected, rtol=1e-3, atol=1e-5)


@MODELS
def test_every_parameter_gets_a_gradient_and_a_class_only_its_own(model: ModuleType):
    generator, critic = made(model)
    labels = torch.tensor([0, 2, 0, 2])
    critic(generator(noise(4), labels), labels).sum().backward()
    parameters = {**dict(generator.named_parameters()), **dict(critic.named_parameters())}
    assert all(p.grad is not None for p in parameters.values())
    per_class = [
        p.grad
        for name, p in parameters.items()
        if name.endswith((".vectors.weight", ".scale", ".shift"))
    ]
    assert len(per_class) == (9 if model is resnet else 2)
    for gradient in per_class:
        assert gradient[[0, 2]].any(dim=1).all()
        assert not gradient[[1, 3]].any()


@MODELS
def test_labels_are_needed_with_classes_and_refused_without(model: ModuleType):
    labels = torch.zeros(2, dtype=torch.int64)
    generator, critic = made(model)
    with pytest.raises(ValueError, match="4 classes needs labels"):
        generator(noise(2))
    with pytest.raises(ValueError, match="4 classes needs labels"):
        critic(samples(2))
    with pytest.raises(ValueError, match="without classes"):
        model.Generator(LATENT, SHAPE, width=8)(noise(2), labels)
    with pytest.raises(ValueError, match="without classes"):
        model.Critic(SHAPE, width=8)(samples(2), labels)


@MODELS
def test_classes_only_add_parameters_to_a_network(model: ModuleType):
    critic, plain = model.Critic(SHAPE, classes=CLASSES), model.Critic(SHAPE)
    added = set(critic.state_dict()) - set(plain.state_dict())
    assert added == {"projection.vectors.weight"}
    assert set(plain.state_dict()) < set(critic.state_dict())
    generator, plain = (
        model.Generator(LATENT, SHAPE, classes=CLASSES),
        model.Generator(LATENT, SHAPE),
    )
    if model is not resnet:
        added = set(generator.state_dict()) - set(plain.state_dict())
        assert added == {"class_latent.vectors.weight"}
        return
    # 128 scales and shifts for each class in place of one, in two norms of each of two blocks.
    count = {n: sum(p.numel() for p in n.parameters()) for n in (generator, plain)}
    assert count[generator] - count[plain] == 2 * 2 * 2 * 128 * (CLASSES - 1)


def test_unconditional_networks_keep_their_parameter_names_and_initial_weights():
    """Checkpoints and seeds of earlier versions depend on these."""
    torch.manual_seed(5)
    generator, critic = mlp.Generator(LATENT, (2,), width=8), mlp.Critic((2,), width=8)
    torch.manual_seed(5)
    widths = [(LATENT, 8), (8, 8), (8, 8), (8, 2)]
    drawn = [nn.Linear(*shape) for shape in widths]
    for layer in drawn[:-1]:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.xavier_uniform_(drawn[-1].weight)
    scored = [nn.Linear(*shape) for shape in [(2, 8), (8, 8), (8, 8), (8, 1)]]
    for network, layers, with_bias in ((generator, drawn, False), (critic, scored, True)):
        state = network.state_dict()
        assert list(state) == [f"layers.{2 * i}.{n}" for i in range(4) for n in ("weight", "bias")]
        for i, layer in enumerate(layers):
            assert torch.equal(state[f"layers.{2 * i}.weight"], layer.weight)
            bias = layer.bias if with_bias else torch.zeros_like(layer.bias)
            assert torch.equal(state[f"layers.{2 * i}.bias"], bias)
    names = {
        dcgan.Generator: "0.weight 1.weight 1.bias 1.running_mean 1.running_var"
        " 1.num_batches_tracked 3.weight 4.weight 4.bias 4.running_mean 4.running_var"
        " 4.num_batches_tracked 6.weight 6.bias",
        dcgan.Critic: "0.weight 0.bias 2.weight 2.bias 4.weight 4.bias",
    }
    for network in (dcgan.Generator(LATENT, SHAPE), dcgan.Critic(SHAPE)):
        expected = [f"layers.{name}" for name in names[type(network)].split()]
        assert list(network.state_dict()) == expected


@pytest.mark.parametrize(("latent_dim", "length"), [(2, 2), (128, 128), (200, 128)])
def test_the_latents_class_is_as_long_as_the_latent_up_to_128(latent_dim: int, length: int):
    class_latent = ClassLatent(latent_dim, CLASSES)
    assert class_latent.size == latent_dim + length
    latent, labels = torch.randn(3, latent_dim), torch.tensor([1, 3, 1])
    both = class_latent(latent, labels)
    assert torch.equal(both[:, :latent_dim], latent)
    assert torch.equal(both[:, latent_dim:], class_latent.vectors.weight[labels])


def test_class_embeddings_are_initialised_like_the_latent():
    vectors = ClassLatent(100, 1000).vectors.weight
    assert vectors.std().item() == pytest.approx(1, abs=0.02)


@MODELS
def test_the_projection_starts_no_larger_than_the_common_score(model: ModuleType):
    critic = model.Critic(SHAPE, classes=10)
    common = last_layer(critic).weight.square().mean()
    assert (critic.projection.vectors.weight.square().mean() / common).item() < 20


def test_only_conditional_networks_accept_classes():
    for module in (mlp, dcgan, resnet):
        for network in (module.Generator, module.Critic):
            assert inspect.signature(network).parameters["classes"].default is None
    for network in (lipschitz.Critic, parallel_lines.Generator):
        assert "classes" not in inspect.signature(network).parameters


def test_a_projection_adds_the_classs_product():
    projection = Projection(3, classes=2)
    with torch.no_grad():
        projection.vectors.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, math.pi]]))
    features = torch.tensor([[1.0, 1.0, 1.0], [2.0, 3.0, 0.0]])
    scores = projection(torch.tensor([10.0, 20.0]), features, torch.tensor([0, 1]))
    torch.testing.assert_close(scores, torch.tensor([16.0, 17.0]))
