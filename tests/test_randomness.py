"""Random numbers depend on their position in a run, and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from wgan_cli.randomness import Draws, Stream

CPU = torch.device("cpu")
BASE = Draws(3, Stream.CRITIC_NOISE, 4, 5)
ELSEWHERE = {
    "seed": Draws(4, Stream.CRITIC_NOISE, 4, 5),
    "stream": Draws(3, Stream.GENERATOR_NOISE, 4, 5),
    "step": Draws(3, Stream.CRITIC_NOISE, 5, 5),
    "inner": Draws(3, Stream.CRITIC_NOISE, 4, 6),
    "step and inner exchanged": Draws(3, Stream.CRITIC_NOISE, 5, 4),
}


def numbers(draws: Draws) -> tuple[list[float], list[float], list[float], list[float]]:
    with draws.global_seed():
        initial = torch.rand(4).tolist()
    return (
        draws.normal((4,), CPU).tolist(),
        draws.uniform((4,), CPU).tolist(),
        draws.numpy().random(4).tolist(),
        initial,
    )


def test_the_same_position_gives_the_same_numbers():
    assert numbers(BASE) == numbers(BASE)
    assert numbers(BASE) == numbers(Draws(3, Stream.CRITIC_NOISE, 4, 5))


@pytest.mark.parametrize("other", list(ELSEWHERE.values()), ids=list(ELSEWHERE))
def test_another_position_gives_other_numbers(other: Draws):
    for here, there in zip(numbers(BASE), numbers(other), strict=True):
        assert not set(here) & set(there)


def test_positions_of_a_run_do_not_overlap():
    seen: set[float] = set()
    count = 0
    for step in range(10):
        for inner in range(5):
            for stream in Stream:
                drawn = Draws(0, stream, step, inner).numpy().random(20).tolist()
                seen.update(drawn)
                count += 20
    assert len(seen) == count


def test_a_long_draw_begins_with_a_short_one():
    assert torch.equal(BASE.normal((100, 3), CPU)[:10], BASE.normal((10, 3), CPU))


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 - 1])
def test_every_allowed_seed_draws(seed: int):
    draws = Draws(seed, Stream.SAMPLES)
    assert draws.normal((3,), CPU).isfinite().all()
    with draws.global_seed():
        assert torch.rand(1).isfinite().all()


def test_normal_numbers_are_standard_normal():
    drawn = BASE.normal((400, 250), CPU)
    assert drawn.shape == (400, 250)
    assert drawn.dtype == torch.float32
    assert float(drawn.mean()) == pytest.approx(0, abs=0.02)
    assert float(drawn.std()) == pytest.approx(1, abs=0.02)
    assert float((drawn.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.01)


def test_uniform_numbers_fill_zero_to_one():
    drawn = BASE.uniform((400, 250), CPU)
    assert drawn.shape == (400, 250)
    assert drawn.dtype == torch.float32
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(drawn.std()) == pytest.approx(12**-0.5, abs=0.01)


def test_first_numbers_of_consecutive_steps_are_standard_normal_too():
    firsts = torch.cat(
        [Draws(0, Stream.CRITIC_NOISE, step).normal((1,), CPU) for step in range(4000)]
    )
    assert float(firsts.mean()) == pytest.approx(0, abs=0.08)
    assert float(firsts.std()) == pytest.approx(1, abs=0.08)
    assert abs(float(np.corrcoef(firsts[:-1], firsts[1:])[0, 1])) < 0.08


def test_stream_values_do_not_change():
    assert {stream.name: int(stream) for stream in Stream}.items() >= {
        "DATA_ORDER": 0,
        "POINTS": 1,
        "CRITIC_NOISE": 2,
        "GENERATOR_NOISE": 3,
        "PENALTY": 4,
        "SAMPLES": 5,
        "EVALUATION": 6,
        "GENERATOR_WEIGHTS": 7,
        "CRITIC_WEIGHTS": 8,
        "HELD_OUT": 9,
    }.items()
    assert len({int(stream) for stream in Stream}) == len(Stream)


def test_global_seed_restores_torch_also_after_an_error():
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    with BASE.global_seed():
        torch.rand(1000)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(123)
    with pytest.raises(RuntimeError), BASE.global_seed():
        torch.rand(1000)
        raise RuntimeError
    assert torch.equal(torch.rand(3), expected)


def test_global_seed_does_not_depend_on_torchs_state():
    torch.manual_seed(1)
    with BASE.global_seed():
        first = torch.nn.Linear(3, 3).weight.detach().clone()
    torch.manual_seed(2)
    with BASE.global_seed():
        second = torch.nn.Linear(3, 3).weight.detach().clone()
    assert torch.equal(first, second)


def test_drawing_touches_no_global_state():
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    BASE.normal((100,), CPU)
    BASE.uniform((100,), CPU)
    BASE.numpy().permutation(100)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_global_state_does_not_touch_drawing():
    expected = BASE.normal((4,), CPU)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(BASE.normal((4,), CPU), expected)
