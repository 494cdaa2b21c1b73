"""Batches as a function of (seed, update), and the split into training and held-out parts."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import Tensor

from wgan_cli.data.dataset import Dataset, TensorDataset, held_out_halves, split
from wgan_cli.data.feeds import EndlessFeed, ResidentFeed, to_bytes, to_floats
from wgan_cli.data.images import digits
from wgan_cli.data.synthetic import gaussians_ring
from wgan_cli.errors import ConfigError, DataError

CPU = torch.device("cpu")
SIZE = 23


def numbered(count: int = SIZE) -> Tensor:
    """Samples whose value is their index."""
    return torch.arange(count, dtype=torch.float32)[:, None]


def stream(feed: ResidentFeed, updates: int) -> list[int]:
    return [int(x) for update in range(updates) for x in feed.batch(update).samples]


def rows(samples: Tensor) -> list[bytes]:
    return sorted(sample.numpy().tobytes() for sample in samples)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 12, 22, 23])
def test_every_epoch_visits_each_sample_exactly_once(batch_size: int):
    feed = ResidentFeed(numbered(), batch_size, 0, CPU)
    seen = stream(feed, -(-4 * SIZE // batch_size))
    for epoch in range(4):
        assert sorted(seen[epoch * SIZE : (epoch + 1) * SIZE]) == list(range(SIZE))


@pytest.mark.parametrize("batch_size", [5, 22, 23])
def test_every_batch_is_full(batch_size: int):
    feed = ResidentFeed(numbered(), batch_size, 0, CPU)
    assert all(feed.batch(update).samples.shape == (batch_size, 1) for update in range(30))


def test_order_differs_by_epoch_and_by_seed():
    orders = [
        tuple(stream(ResidentFeed(numbered(), SIZE, seed, CPU), 3)[epoch * SIZE :][:SIZE])
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9


def test_order_is_shuffled():
    assert stream(ResidentFeed(numbered(), SIZE, 0, CPU), 1) != list(range(SIZE))


def test_a_batch_does_not_depend_on_what_was_asked_before():
    expected = [ResidentFeed(numbered(), 5, 7, CPU).batch(update).samples for update in range(25)]
    one = ResidentFeed(numbered(), 5, 7, CPU)
    for update in [24, 0, 13, 13, 4, 5, 3, 4, 23, 1, 9, 22, *range(25), *reversed(range(25))]:
        assert torch.equal(one.batch(update).samples, expected[update])


def test_past_epochs_take_no_memory():
    size = 1009

    def held() -> int:
        gc.collect()
        tensors = [x for x in gc.get_objects() if type(x) is Tensor]
        return sum(tensor.numel() == size for tensor in tensors)

    feed = ResidentFeed(numbered(size), 100, 0, CPU)
    for update in range(25):
        feed.batch(update)
    early = held()
    for update in range(25, 110):
        feed.batch(update)
    assert held() <= early + 1


def test_batch_far_into_a_run():
    far = 10**12
    first, again = (ResidentFeed(numbered(), 5, 7, CPU).batch(far).samples for _ in range(2))
    assert torch.equal(first, again)


def test_reading_changes_neither_the_data_nor_global_randomness():
    samples = torch.arange(40, dtype=torch.uint8).reshape(10, 1, 2, 2)
    before, state = samples.clone(), torch.get_rng_state()
    batch = ResidentFeed(samples, 4, 0, CPU).batch(0).samples
    batch.add_(1)
    assert torch.equal(samples, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_images_come_as_floats_from_minus_one_to_one():
    samples = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
    batch = ResidentFeed(samples, 2, 0, CPU).batch(0).samples
    assert batch.dtype == torch.float32
    assert sorted(batch.flatten().tolist()) == [-1.0, 1.0]


def test_every_update_mirrors_other_images():
    samples = torch.tensor([0, 255], dtype=torch.uint8).expand(16, 1, 1, 2)
    feed = ResidentFeed(samples, 16, 0, CPU, flip=True)
    mirrored = {tuple((feed.batch(u).samples[:, 0, 0, 0] > 0).tolist()) for u in range(5)}
    assert len(mirrored) == 5
    assert all(0 < sum(pattern) < 16 for pattern in mirrored)


def test_bytes_and_floats_are_inverse_on_all_values():
    every = torch.arange(256, dtype=torch.uint8)
    floats = to_floats(every)
    assert floats[0] == -1
    assert floats[255] == 1
    assert torch.equal(floats.diff() > 0, torch.ones(255, dtype=torch.bool))
    assert torch.equal(to_bytes(floats), every)


def test_to_bytes_rounds_and_clamps_without_changing_its_input():
    images = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, 1 / 127.5 - 1 + 0.003])
    before = images.clone()
    assert to_bytes(images).tolist() == [0, 0, 128, 255, 255, 1]
    assert torch.equal(images, before)


def test_points_are_not_rescaled():
    points = torch.tensor([[300.0, -2.5]])
    assert torch.equal(to_floats(points), points)


def test_endless_feed_draws_by_seed_and_update():
    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.standard_normal((count, 2)).astype(np.float32)

    feed = EndlessFeed(draw, 6, 1, CPU)
    ahead = feed.batch(100).samples
    assert ahead.shape == (6, 2)
    assert ahead.dtype == torch.float32
    assert torch.equal(EndlessFeed(draw, 6, 1, CPU).batch(100).samples, ahead)
    assert not torch.equal(feed.batch(101).samples, ahead)
    assert not torch.equal(EndlessFeed(draw, 6, 2, CPU).batch(100).samples, ahead)


def test_digits_split_is_1438_and_359_and_disjoint():
    dataset = digits()
    assert len(dataset.train) == 1438
    assert len(dataset.held_out) == 359
    assert not set(rows(dataset.train)) & set(rows(dataset.held_out))


def test_split_keeps_every_sample_once():
    dataset = split(numbered(100), "numbers")
    assert len(dataset.held_out) == 20
    together = torch.cat([dataset.train, dataset.held_out])
    assert sorted(together.flatten().tolist()) == list(range(100))


def test_split_is_fixed_whatever_the_global_seeds_are():
    torch.manual_seed(1)
    np.random.seed(1)
    first = split(numbered(100), "numbers")
    torch.manual_seed(2)
    np.random.seed(2)
    second = split(numbered(100), "numbers")
    assert torch.equal(first.train, second.train)
    assert torch.equal(first.held_out, second.held_out)


def test_split_is_not_the_first_or_last_of_the_file():
    held_out = split(numbered(100), "numbers").held_out.flatten().tolist()
    assert min(held_out) < 30
    assert max(held_out) > 70


@pytest.mark.parametrize("count", [None, 4, 40, 50])
def test_held_out_halves_are_disjoint_and_equally_large(count: int | None):
    dataset = TensorDataset("numbers", numbered(30), numbered(100) + 1000)
    first, second = held_out_halves(dataset, count)
    assert len(first) == len(second) == (count or 50)
    together = torch.cat([first, second]).tolist()
    assert len(set(together)) == len(together)
    assert set(together) <= set(range(100))


@pytest.mark.parametrize("dataset", [digits(), gaussians_ring()], ids=["digits", "ring"])
def test_held_out_halves_are_the_same_in_every_run(dataset: Dataset):
    first, second = held_out_halves(dataset, None)
    again = held_out_halves(dataset, None)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert len(first) == min(1024, len(dataset.held_out) // 2)


def test_too_many_evaluation_samples_are_refused_with_the_limit():
    dataset = TensorDataset("numbers", numbered(30), numbered(101))
    with pytest.raises(ConfigError, match=r"eval_samples=51.*at most 50"):
        held_out_halves(dataset, 51)


def test_a_batch_larger_than_the_data_is_refused_with_both_sizes():
    dataset = TensorDataset("numbers", numbered(30), numbered(10))
    with pytest.raises(DataError, match=r"31.*30"):
        dataset.feed(31, 0, CPU)
    assert dataset.feed(30, 0, CPU).batch(0).samples.shape == (30, 1)


def test_parts_that_do_not_fit_together_are_refused():
    with pytest.raises(DataError, match="held-out"):
        TensorDataset("numbers", numbered(30), numbered(0))
    with pytest.raises(DataError, match="training"):
        TensorDataset("numbers", numbered(2), numbered(30))
    with pytest.raises(DataError, match="shape"):
        TensorDataset("numbers", numbered(30), torch.zeros(30, 2))


def test_training_sample_is_fixed_and_of_the_training_part():
    dataset = digits()
    chosen = torch.tensor([700, 3, 1437])
    assert torch.equal(dataset.training_sample(chosen), digits().training_sample(chosen))
    assert not set(rows(dataset.training_sample(torch.arange(300)))) & set(rows(dataset.held_out))
