"""Weight clipping: the bound, what it covers and reports; which critic which constraint holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from wgan_cli.build import facts_of
from wgan_cli.commands.composition import Composer
from wgan_cli.config import validate
from wgan_cli.constraints import Unconstrained, WeightClipping
from wgan_cli.constraints.base import BATCH_NORM, NORMALIZATION, layer_names
from wgan_cli.errors import ConfigError
from wgan_cli.losses import Wasserstein
from wgan_cli.models import dcgan, mlp
from wgan_cli.randomness import Draws, Stream
from wgan_cli.rules import CriticFacts, refuse_pair
from wgan_cli.schema import TrainConfig
from wgan_cli.training.updates import Updates

CPU = torch.device("cpu")
IMAGE = (1, 16, 16)
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


pytestmark = pytest.mark.usefixtures("one_seeded_thread")


def networks(model: str) -> tuple[nn.Module, nn.Module]:
    if model == "mlp":
        return mlp.Generator(3, IMAGE, width=8, depth=2), mlp.Critic(IMAGE, width=8, depth=2)
    return dcgan.Generator(3, IMAGE, width=4), dcgan.Critic(IMAGE, width=4, norm="batch")


def largest(parameters: list[torch.Tensor]) -> float:
    return max(float(p.detach().abs().max()) for p in parameters)


@pytest.mark.parametrize("model", ["mlp", "dcgan"])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_bound_holds_after_every_critic_update(model: str, optimizer: str):
    generator, critic = networks(model)
    make = OPTIMIZERS[optimizer]
    constraint = WeightClipping(0.03)
    updates = Updates(
        generator,
        critic,
        make(generator.parameters(), lr=0.5),
        make(critic.parameters(), lr=10.0),
        Wasserstein(),
        constraint,
    )
    bound = float(torch.tensor(0.03))
    reached = 0.0
    for step in range(5):
        real = Draws(1, Stream.POINTS, step).uniform((8, *IMAGE), CPU) * 2 - 1
        latent = Draws(1, Stream.CRITIC_NOISE, step).normal((8, 3), CPU)
        updates.critic_update(real, latent, Draws(1, Stream.PENALTY, step))
        assert largest(list(critic.parameters())) <= bound
        reached = max(reached, largest(list(critic.parameters())))
        updates.generator_update(latent)
        assert largest(list(critic.parameters())) <= bound
    assert reached == bound
    assert largest(list(generator.parameters())) > bound


def test_clipping_cuts_values_outside_and_keeps_those_inside():
    critic = nn.Linear(4, 1)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[-3.0, -0.1, 0.25, 0.75]]))
        critic.bias.fill_(-0.6)
    WeightClipping(0.5).after_step(critic)
    assert critic.weight.tolist() == [[-0.5, pytest.approx(-0.1), 0.25, 0.5]]
    assert critic.bias.tolist() == [-0.5]


def test_clipping_covers_batch_norm_and_biases_as_in_the_paper():
    critic = dcgan.Critic(IMAGE, width=4, norm="batch")
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.fill_(1.0)
    WeightClipping(0.01).after_step(critic)
    assert all(bool((p == torch.tensor(0.01)).all()) for p in critic.parameters())


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(6), nn.LayerNorm(6), nn.GroupNorm(2, 6)], ids=lambda m: type(m).__name__
)
def test_exemption_leaves_normalisation_alone_and_only_that(norm: nn.Module):
    critic = nn.Sequential(nn.Linear(4, 6), norm, nn.ReLU(), nn.Linear(6, 1))
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.fill_(1.0)
    WeightClipping(0.01, exempt_normalization=True).after_step(critic)
    exempt = {id(p) for p in norm.parameters()}
    for parameter in critic.parameters():
        expected = 1.0 if id(parameter) in exempt else torch.tensor(0.01).item()
        assert bool((parameter == expected).all())


def test_clipping_leaves_running_statistics_alone():
    critic = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
    critic[1].running_mean.fill_(5.0)
    WeightClipping(0.01).after_step(critic)
    assert critic[1].running_mean.tolist() == [5.0] * 6
    assert critic[1].running_var.tolist() == [1.0] * 6


def test_one_constraint_clips_whichever_critic_it_is_given():
    constraint = WeightClipping(0.01)
    for _ in range(2):
        critic = nn.Linear(3, 1)
        nn.init.ones_(critic.weight)
        constraint.after_step(critic)
        assert largest(list(critic.parameters())) <= torch.tensor(0.01).item()


def test_saturation_is_the_share_of_weights_at_99_percent_of_the_bound():
    critic = nn.Linear(9, 1)
    with torch.no_grad():
        weights = [1.0, -1.0, 0.995, -0.9901, 0.98, -0.5, 0.0, 0.1, -0.2]
        critic.weight.copy_(torch.tensor([weights]))
        critic.bias.fill_(0.991)
    assert WeightClipping(1.0).report(critic) == {"critic/clip_saturation": 0.5}


def test_saturation_counts_only_clipped_weights():
    critic = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.fill_(1.0)
        critic[0].bias.zero_()
    exempting = WeightClipping(1.0, exempt_normalization=True)
    assert exempting.report(critic)["critic/clip_saturation"] == pytest.approx(4 / 6)
    assert WeightClipping(1.0).report(critic)["critic/clip_saturation"] == pytest.approx(8 / 10)


def test_report_changes_nothing():
    critic = nn.Linear(3, 1)
    before = [p.detach().clone() for p in critic.parameters()]
    WeightClipping(0.01).report(critic)
    assert all(torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True))


def test_unconstrained_changes_nothing():
    critic = nn.Linear(3, 1)
    nn.init.constant_(critic.weight, 100.0)
    before = [p.detach().clone() for p in critic.parameters()]
    constraint = Unconstrained()
    assert constraint.wrap(critic) is critic
    samples = torch.zeros(2, 3)
    assert constraint.penalty(critic, samples, samples, Draws(0, Stream.PENALTY)) is None
    constraint.after_step(critic)
    assert constraint.report(critic) == {}
    assert all(torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True))


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_a_bound_that_is_no_bound_is_refused(clip: float):
    with pytest.raises(ValueError, match="clip"):
        WeightClipping(clip)


class Bounded(nn.Linear):
    lipschitz_constant = 1.0


PLAIN = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
BATCH = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
LAYER = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 1))
BOUNDED = Bounded(2, 1)
# The critics that each constraint holds, and those that it does not.
PAIRS: dict[str, tuple[list[nn.Module], list[nn.Module]]] = {
    "none": ([PLAIN, BATCH, LAYER, BOUNDED], []),
    "clip": ([PLAIN, BATCH, LAYER], [BOUNDED]),
    "gradient_penalty": ([PLAIN, LAYER, BOUNDED], [BATCH]),
    "spectral_norm": ([PLAIN], [BATCH, LAYER, BOUNDED, nn.Identity()]),
    "orthogonal": ([PLAIN, BATCH, LAYER], [BOUNDED, nn.Identity()]),
}


def config_with(*words: str) -> TrainConfig:
    plain = OmegaConf.to_container(Composer().compose(words))
    assert isinstance(plain, dict)
    del plain["hydra"]
    return validate(plain)


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_a_critic_that_a_constraint_cannot_hold_is_refused_once_built(name: str):
    held, refused = PAIRS[name]
    config = config_with(f"constraint={name}")
    for critic in held:
        refuse_pair(config, facts_of(critic))
    for critic in refused:
        with pytest.raises(ConfigError, match=rf"constraint={name}.*\.$") as caught:
            refuse_pair(config, facts_of(critic))
        assert "\n" not in str(caught.value)


def test_a_pair_is_judged_in_the_same_words_before_and_after_building():
    for norm, constraint in (("batch", "gradient_penalty"), ("layer", "spectral_norm")):
        words = ["model=dcgan", f"model.critic.norm={norm}", f"constraint={constraint}"]
        config = config_with(*words)
        with pytest.raises(ConfigError) as before:
            refuse_pair(config, CriticFacts.from_config(config))
        critic = dcgan.Critic(IMAGE, width=4, norm=norm)
        with pytest.raises(ConfigError) as after:
            refuse_pair(config, facts_of(critic))
        layers = ", ".join(layer_names(critic, NORMALIZATION))
        assert str(before.value).replace(f"({'model.critic.norm=' + norm})", f"({layers})") == str(
            after.value
        )


def test_an_exemption_without_normalisation_is_refused_before_and_after_building():
    config = config_with("constraint.exempt_normalization=true")
    for facts in (CriticFacts.from_config(config), facts_of(PLAIN)):
        with pytest.raises(ConfigError, match="exempt_normalization=true has no effect"):
            refuse_pair(config, facts)
    refuse_pair(config, facts_of(LAYER))


def test_batch_norm_layers_are_named():
    assert layer_names(mlp.Critic(IMAGE, width=4), BATCH_NORM) == []
    assert layer_names(dcgan.Critic(IMAGE, width=4), BATCH_NORM) == []
    named = layer_names(
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.LayerNorm(2)), BATCH_NORM
    )
    assert named == ["1"]
