"""Example 1 of arXiv 1701.07875: the data, the one-parameter generator and what each loss does."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import metrics_of
from scipy.stats import kstest

from wgan_cli.commands.train import run
from wgan_cli.data.synthetic import parallel_lines
from wgan_cli.errors import ConfigError
from wgan_cli.losses import Gan, Wasserstein
from wgan_cli.models.parallel_lines import Generator
from wgan_cli.randomness import Draws, Stream

CPU = torch.device("cpu")
# What both experiments write, at the least cost.
QUICK = [
    *("threads=1", "device=cpu", "log_every=20", "eval_every=1000", "sample_every=1000"),
    *("eval_samples=16", "metrics=[wasserstein/exact]"),
]


def noise(count: int) -> torch.Tensor:
    return Draws(0, Stream.SAMPLES).normal((count, 1), CPU)


def thetas_of(folder: Path, *words: str) -> dict[int, float]:
    """theta by step at each log point of a run."""
    assert run([*QUICK, *words, f"hydra.run.dir={folder}"]) == 0
    return {int(line["step"]): line["generator/theta"] for line in metrics_of(folder)}


def test_the_data_lie_on_the_axis_with_uniform_heights():
    dataset = parallel_lines()
    points = dataset.draw(np.random.default_rng(0), 5000)
    assert points.shape == (5000, 2)
    assert points.dtype == np.float32
    assert (points[:, 0] == 0).all()
    assert kstest(points[:, 1], "uniform").pvalue > 0.01
    assert dataset.sample_shape == (2,)
    assert dataset.modes is None


def test_batches_are_of_their_seed_and_update_and_not_held_out():
    dataset = parallel_lines()
    feed = dataset.feed(32, 0, CPU)
    assert torch.equal(feed.batch(3).samples, dataset.feed(32, 0, CPU).batch(3).samples)
    assert not torch.equal(feed.batch(3).samples, feed.batch(4).samples)
    assert not torch.equal(feed.batch(3).samples, dataset.feed(32, 1, CPU).batch(3).samples)
    assert torch.equal(dataset.held_out, parallel_lines().held_out)
    assert not set(feed.batch(0).samples[:, 1].tolist()) & set(dataset.held_out[:, 1].tolist())


@pytest.mark.parametrize("theta", [1.0, -0.25, 0.0])
def test_the_generator_draws_the_same_line_at_theta(theta: float):
    points = Generator(1, (2,), theta=theta)(noise(5000)).detach()
    assert points.shape == (5000, 2)
    assert (points[:, 0] == theta).all()
    assert kstest(points[:, 1].numpy(), "uniform").pvalue > 0.01


def test_theta_is_all_there_is_to_train_and_is_reported():
    generator = Generator(1, (2,), theta=0.75)
    assert [name for name, _ in generator.named_parameters()] == ["theta"]
    assert generator.report() == {"generator/theta": 0.75}


@pytest.mark.parametrize("theta", [1.0, -0.5])
def test_thetas_gradients_are_those_of_the_closed_forms(theta: float):
    """Under the critic f = -sign(theta) x, optimal for W1: d/dtheta |theta| = sign(theta).

    Under the logits f = -sign(theta) a x the minimax loss pulls with a sigmoid(f), the alternative
    with a sigmoid(-f); here a = 3.
    """

    def gradient(loss: Wasserstein | Gan, steepness: float) -> float:
        generator = Generator(1, (2,), theta=theta)
        scores = -steepness * math.copysign(1, theta) * generator(noise(16))[:, 0]
        loss.generator(scores).backward()
        assert generator.theta.grad is not None
        return generator.theta.grad.item()

    sign = math.copysign(1, theta)
    assert gradient(Wasserstein(), 1.0) == pytest.approx(sign)
    probability = 1 / (1 + math.exp(3 * abs(theta)))
    assert gradient(Gan(saturating=True), 3.0) == pytest.approx(3 * sign * probability, rel=1e-5)
    expected = 3 * sign * (1 - probability)
    assert gradient(Gan(saturating=False), 3.0) == pytest.approx(expected, rel=1e-5)


def test_other_shapes_are_refused_with_what_to_type():
    with pytest.raises(ConfigError, match=r"latent_dim=1"):
        Generator(2, (2,))
    for shape in ((1, 8, 8), (3,)):
        with pytest.raises(ConfigError, match=r"dataset=parallel_lines"):
            Generator(1, shape)


def test_the_wasserstein_experiment_brings_theta_to_the_data(tmp_path: Path):
    thetas = thetas_of(
        tmp_path / "run",
        *("experiment=parallel_lines", "model.generator.theta=0.4", "steps=120", "n_critic=5"),
    )
    # Slope 1 all the way: one learning rate in each update.
    assert thetas[40] == pytest.approx(0.4 - 40 * 5e-3, abs=0.02)
    assert all(abs(theta) < 0.08 for step, theta in thetas.items() if step >= 100)


@pytest.mark.exhaustive
def test_the_minimax_experiment_leaves_theta_where_it_was(tmp_path: Path):
    thetas = thetas_of(
        tmp_path / "run",
        *("experiment=parallel_lines_gan", "steps=60", "n_critic=5", "critic_warmup.n_critic=600"),
    )
    assert set(thetas) == {20, 40, 60}
    assert all(abs(theta - 1) < 0.01 for theta in thetas.values())


@pytest.mark.exhaustive
def test_the_alternative_gan_loss_moves_theta_in_the_same_experiment(tmp_path: Path):
    thetas = thetas_of(
        tmp_path / "run",
        *("experiment=parallel_lines_gan", "loss.saturating=false", "steps=20", "n_critic=5"),
        "critic_warmup.n_critic=300",
    )
    assert abs(thetas[20]) < 0.5


def test_all_three_losses_give_the_generator_one_rate(tmp_path: Path):
    from wgan_cli.commands.composition import Composer

    rates = set()
    for experiment in ("parallel_lines", "parallel_lines_gan"):
        optimizer = Composer().compose([f"experiment={experiment}"]).optimizer
        assert optimizer.name == "sgd"
        own = optimizer.generator
        rates.add((optimizer.lr if own.lr is None else own.lr, optimizer.momentum, own.momentum))
    assert rates == {(5e-3, 0.0, None)}
