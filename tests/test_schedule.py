"""n_critic, its warm-up and learning-rate decay, counted by brute force."""

from __future__ import annotations

import itertools
import math

import pytest

from wgan_cli.training.schedule import CriticSchedule, LearningRateDecay

STEPS = 60


def expected_updates(step: int, n_critic: int, steps: int, warm: int, every: int) -> int:
    starting = step < steps
    recurring = every != 0 and step % every == 0
    return warm if starting or recurring else n_critic


@pytest.mark.parametrize("n_critic", [1, 5])
@pytest.mark.parametrize("warm", [1, 7, 100])
def test_counts_agree_with_a_brute_force_sum(n_critic: int, warm: int):
    for steps, every in itertools.product([0, 1, 2, 7, 25, 80], [0, 1, 2, 3, 7, 10, 50, 500]):
        schedule = CriticSchedule(n_critic, steps, warm, every)
        done = 0
        for step in range(STEPS):
            assert schedule.updates_before(step) == done, (steps, every, step)
            expected = expected_updates(step, n_critic, steps, warm, every)
            assert schedule.updates(step) == expected, (steps, every, step)
            done += expected


def test_without_warm_up_every_step_has_n_critic():
    schedule = CriticSchedule(5)
    assert [schedule.updates(step) for step in range(1001)] == [5] * 1001
    assert schedule.updates_before(1000) == 5000


def test_warm_up_of_the_authors_code():
    schedule = CriticSchedule(5, 25, 100, 500)
    updates = [schedule.updates(step) for step in range(1501)]
    assert updates[:25] == [100] * 25
    assert [step for step in range(25, 1501) if updates[step] == 100] == [500, 1000, 1500]
    assert schedule.updates_before(1501) == sum(updates)


def test_count_is_exact_far_into_a_run():
    schedule = CriticSchedule(3, 25, 100, 7)
    far = 10**15
    gained = schedule.updates_before(far + 1) - schedule.updates_before(far)
    assert gained == schedule.updates(far)


def test_no_decay_is_a_factor_of_one():
    for decay in (LearningRateDecay(), LearningRateDecay("none", None)):
        assert [decay.factor(step) for step in (0, 1, 10**6)] == [1.0] * 3


def test_linear_decay():
    decay = LearningRateDecay("linear", 4)
    assert [decay.factor(step) for step in range(7)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0]


def test_cosine_decay():
    decay = LearningRateDecay("cosine", 8)
    expected = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(9)]
    assert [decay.factor(step) for step in range(9)] == pytest.approx(expected)
    assert decay.factor(0) == 1.0
    assert decay.factor(4) == pytest.approx(0.5)
    assert decay.factor(100) == 0.0


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_decay_never_rises_and_is_above_zero_in_every_step_of_the_run(kind: str):
    factors = [LearningRateDecay(kind, 50).factor(step) for step in range(50)]
    assert factors == sorted(factors, reverse=True)
    assert min(factors) > 0
