"""The random numbers of a step on CUDA: functions of (seed, step), drawn in blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from wgan_cli.acceleration.joint_draws import JointDraws
from wgan_cli.randomness import FULL_BATCH, Draws, Shard, Stream

CPU = torch.device("cpu")
UPDATES = 3


def begun(step: int, *, seed: int = 1, shard: Shard = FULL_BATCH) -> JointDraws:
    joint = JointDraws(seed, CPU, shard)
    joint.begin(step, UPDATES)
    return joint


def step_numbers(joint: JointDraws, first: int = 0, rows: int = 4) -> list[Tensor]:
    """Return the numbers of a step that begins at critic update `first`.

    The numbers of the generator update are drawn before them, as in training.
    """
    noise = joint.generator_update(Stream.GENERATOR_NOISE).normal((rows, 2), CPU)
    critic = []
    for inner in range(first, UPDATES):
        critic.append(joint.critic(Stream.CRITIC_NOISE, inner).normal((rows, 2), CPU))
        critic.append(joint.critic(Stream.PENALTY, inner).uniform((rows,), CPU))
    return [noise, *critic]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def test_numbers_depend_on_seed_and_step_only() -> None:
    expected = step_numbers(begun(5))
    used = begun(4)
    step_numbers(used)
    used.begin(5, UPDATES)
    torch.manual_seed(7)
    assert same(step_numbers(used), expected)
    used.begin(5, UPDATES)
    assert same(step_numbers(used), expected)


def test_a_step_that_is_resumed_later_draws_the_same() -> None:
    noise, *critic = step_numbers(begun(5))
    for first in range(UPDATES + 1):
        assert same(step_numbers(begun(5), first), [noise, *critic[2 * first :]])


def test_no_two_draws_share_a_number() -> None:
    drawn = [
        each
        for seed in (1, 2)
        for step in (0, 1)
        for each in step_numbers(begun(step, seed=seed), rows=50)
    ]
    values = torch.cat([each.flatten() for each in drawn]).tolist()
    # Uniform numbers have 24 bits: of 600, two are equal with a probability of one per cent.
    assert len(set(values)) >= len(values) - 1


def test_a_repeated_draw_is_the_same_and_another_shape_is_another_one() -> None:
    draws = begun(0).critic(Stream.PENALTY, 1)
    first = draws.normal((4, 2), CPU)
    assert torch.equal(draws.normal((4, 2), CPU), first)
    assert draws.normal((4, 3), CPU).shape == (4, 3)
    assert not torch.equal(draws.uniform((4, 2), CPU), first)


@pytest.mark.parametrize("world", [2, 4])
def test_the_rows_of_all_ranks_are_those_of_a_single_process(world: int) -> None:
    expected = step_numbers(begun(3), rows=8)
    parts = [step_numbers(begun(3, shard=Shard(r, world)), rows=8 // world) for r in range(world)]
    assert same([torch.cat(rows) for rows in zip(*parts, strict=True)], expected)


def test_normal_and_uniform_numbers_have_their_moments() -> None:
    draws = begun(0).critic(Stream.PENALTY, 2)
    normal, uniform = (draw((400, 250), CPU) for draw in (draws.normal, draws.uniform))
    assert normal.dtype == uniform.dtype == torch.float32
    assert float(normal.mean()) == pytest.approx(0, abs=0.02)
    assert float(normal.std()) == pytest.approx(1, abs=0.02)
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(uniform.std()) == pytest.approx(12**-0.5, abs=0.01)


HOST: dict[str, Callable[[Draws], object]] = {
    "numpy": lambda draws: draws.numpy(),
    "the CPU": lambda draws: draws.uniform((2,), CPU),
    "a seed": lambda draws: draws.seed_64(),
}


@pytest.mark.parametrize("draw", HOST.values(), ids=HOST)
def test_numbers_of_the_host_are_refused_while_a_graph_is_recorded(
    draw: Callable[[Draws], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    joint = begun(0)
    joint.device = torch.device("cuda")
    draws, plain = joint.critic(Stream.PENALTY, 1), Draws(1, Stream.PENALTY, 0, 1)
    drawn, expected = draw(draws), draw(plain)
    if isinstance(drawn, Tensor):
        assert torch.equal(drawn, expected)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="draws random numbers by numpy"):
        draw(draws)


@pytest.mark.parametrize("seed", [0, 3, 2**63 - 1])
def test_a_seed_is_the_first_output_of_a_fresh_philox(seed: int) -> None:
    """Whatever this thread has drawn before."""
    for step, inner in ((0, 0), (4, 5), (2**40, 7)):
        for used in (0, 1, 3):
            Draws(9, Stream.PENALTY).normal((used,), CPU)
            fresh = np.random.Philox(
                key=np.array([seed, Stream.CUDA_STEP], dtype=np.uint64),
                counter=np.array([0, 0, inner, step], dtype=np.uint64),
            )
            expected = int(fresh.random_raw()) >> 1
            assert Draws(seed, Stream.CUDA_STEP, step, inner).seed_64() == expected
