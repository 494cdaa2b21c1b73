"""One step of Algorithm 1 in float64 on the CPU, in plain torch, to compare the tool's with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from benchmarks.gpu.compare import movement
from wgan_cli.build import build_constraint, build_critic, build_generator
from wgan_cli.schema import FilledConfig

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Inputs:
    """What a step starts from: both networks' state, a real batch, noise and penalty points."""

    generator: Weights
    critic: Weights
    real: Tensor
    critic_noise: Tensor
    generator_noise: Tensor
    shares: Tensor


@dataclass(frozen=True)
class Exact:
    """The terms of a step, the size of the critic's scores, and how far the weights moved."""

    terms: dict[str, float]
    scores: float
    moved: dict[str, Tensor]


# Each takes the scores of real and of fake samples: the critic's two terms, the generator's loss.
LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], Callable[..., Tensor]]]
LOSSES = {
    "wasserstein": (lambda real, fake: (-real.mean(), fake.mean()), lambda fake: -fake.mean()),
    "hinge": (
        lambda real, fake: (relu(1 - real).mean(), relu(1 + fake).mean()),
        lambda fake: -fake.mean(),
    ),
    "gan": (
        lambda real, fake: (softplus(-real).mean(), softplus(fake).mean()),
        lambda fake: softplus(-fake).mean(),
    ),
}


def exact_step(config: FilledConfig, shape: Sequence[int], inputs: Inputs) -> Exact:
    """Do one critic and one generator update in float64; `config` has n_critic=1."""
    constraint = build_constraint(config)
    generator = build_generator(config.model, config.latent_dim, shape).double()
    critic = build_critic(config, constraint, shape).double()
    generator.load_state_dict(inputs.generator)
    critic.load_state_dict(inputs.critic)
    start = {"generator": weights_of(generator), "critic": weights_of(critic)}
    real, fake = inputs.real, generator(inputs.critic_noise).detach()
    critic_loss, generator_loss = LOSSES[config.loss["name"]]
    real_scores, fake_scores = critic(real), critic(fake)
    loss_real, loss_fake = critic_loss(real_scores, fake_scores)
    penalty = _penalty(config, critic, real, fake, inputs.shares)
    (loss_real + loss_fake + penalty).backward()
    terms = {
        "critic/loss_real": loss_real.item(),
        "critic/loss_fake": loss_fake.item(),
        "critic/penalty": penalty.item(),
        "critic/grad_norm": _norm(critic),
    }
    _optimizer(config, critic).step()
    if config.constraint["name"] == "clip":
        with torch.no_grad():
            bound = config.clip or 0.0
            for weight in critic.parameters():
                weight.clamp_(-bound, bound)
    constraint.after_step(critic)
    loss = generator_loss(critic(generator(inputs.generator_noise)))
    loss.backward()
    terms.update({"generator/loss": loss.item(), "generator/grad_norm": _norm(generator)})
    _optimizer(config, generator).step()
    return Exact(
        terms,
        torch.cat([real_scores, fake_scores]).abs().mean().item(),
        {
            "generator": movement(start["generator"], weights_of(generator)),
            "critic": movement(start["critic"], weights_of(critic)),
        },
    )


def weights_of(network: nn.Module) -> Weights:
    """A float32 copy of a network's trained weights, without its buffers.

    Rounded alike, a movement in float64 can be compared with one in float32 even where it is about
    as small as the rounding of the weights, as under SGD.
    """
    return {name: weight.detach().float().clone() for name, weight in network.named_parameters()}


def doubled(state: Weights) -> Weights:
    """A state dict as float64 on the CPU; whole numbers stay what they are."""
    return {
        name: value.detach().cpu().double() if value.is_floating_point() else value.cpu().clone()
        for name, value in state.items()
    }


def _penalty(
    config: FilledConfig, critic: nn.Module, real: Tensor, fake: Tensor, shares: Tensor
) -> Tensor:
    settings = config.constraint
    if settings["name"] == "gradient_penalty":
        share = shares.view(-1, *[1] * (real.ndim - 1))
        points = (share * real + (1 - share) * fake).requires_grad_()
        (slopes,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
        norms = slopes.flatten(1).square().sum(1).sqrt()
        return settings["weight"] * (norms - settings["target"]).square().mean()
    total = torch.zeros((), dtype=torch.float64)
    if settings["name"] == "orthogonal":
        for layer in critic.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                rows = layer.weight.flatten(1)
                gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
                total = total + (gram - torch.eye(len(gram), dtype=gram.dtype)).square().sum()
        total = settings["weight"] * total
    return total


def _norm(network: nn.Module) -> float:
    squares = [p.grad.square().sum() for p in network.parameters() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt())


def _optimizer(config: FilledConfig, network: nn.Module) -> torch.optim.Optimizer:
    settings = config.optimizer
    if settings["name"] == "adam":
        return torch.optim.Adam(
            network.parameters(), lr=settings["lr"], betas=tuple(settings["betas"])
        )
    if settings["name"] == "sgd":
        return torch.optim.SGD(network.parameters(), lr=settings["lr"])
    return torch.optim.RMSprop(network.parameters(), lr=settings["lr"], alpha=settings["alpha"])
