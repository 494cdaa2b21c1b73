"""Staged inputs give a step the batches of its feed, and copy them between log points only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import exhaustive_beyond
from graphed_trainers import CPU, staged_inputs
from PIL import Image
from torch import Tensor

from wgan_cli.data import feeds
from wgan_cli.data.feeds import Batch, EndlessFeed, ResidentFeed, StagedFeed
from wgan_cli.data.folders import image_folder
from wgan_cli.data.streaming import StreamingFeed
from wgan_cli.randomness import FULL_BATCH, Shard, Stream
from wgan_cli.training.callbacks.protocol import Cadence
from wgan_cli.training.schedule import CriticSchedule
from wgan_cli.training.step_inputs import StagedInputs, StepInputs

BATCH, COUNT = 4, 23
RATES = [0.5, 0.25]
SCHEDULES = {
    "two": CriticSchedule(2),
    # Nine updates are more than one group.
    "warm-up": CriticSchedule(2, 2, 9, 4),
    "one": CriticSchedule(1),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, count in (("train", COUNT), ("test", 8)):
        for number in range(count):
            name = root / part / ("cat" if number % 2 else "dog")
            name.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(name / f"{number:02d}.png")
    return root


def draw(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal((count, 2)).astype(np.float32)


def feed_of(
    kind: str, folder: Path, *, shard: Shard = FULL_BATCH, flip: bool = False
) -> StagedFeed:
    if kind == "points":
        return EndlessFeed(draw, BATCH, 0, CPU, shard)
    if kind == "streamed":
        dataset = image_folder(root=str(folder), size=8, in_memory=False, workers=0, flip=flip)
        feed = dataset.feed(BATCH, 0, CPU, shard)
        assert isinstance(feed, StreamingFeed)
        return feed
    images = torch.arange(COUNT * 16).to(torch.uint8).reshape(COUNT, 1, 4, 4)
    labels = torch.arange(COUNT) % 3 if kind == "labelled" else None
    return ResidentFeed(images, BATCH, 0, CPU, shard, labels, flip)


KINDS = ["images", "labelled", "points", "streamed"]


def steps_of(
    inputs: StepInputs, steps: int, *, first: int = 0, log: int = 4
) -> Iterator[list[Batch]]:
    """The batches of each step, as a run with a log point every `log` steps asks for them."""
    cadence = Cadence(log, 10**9, 10**9, 10**9)
    for step in range(first, steps):
        inputs.begin(step, cadence.next_log(step, steps), lambda step: [step + r for r in RATES])
        if isinstance(inputs, StagedInputs):
            assert inputs.rates().tolist() == [step + rate for rate in RATES]
        yield [inputs.real(inner) for inner in range(inputs.updates)]
        inputs.finish()


def assert_same(one: Sequence[Batch], other: Sequence[Batch]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert torch.equal(mine.samples, theirs.samples)
        assert mine.samples.dtype == theirs.samples.dtype == torch.float32
        assert (mine.labels is None) == (theirs.labels is None)
        if mine.labels is not None and theirs.labels is not None:
            assert torch.equal(mine.labels, theirs.labels)


@pytest.mark.parametrize(
    ("kind", "schedule", "log"),
    exhaustive_beyond(
        [(kind, "warm-up", 4) for kind in KINDS] + [("labelled", "two", 3), ("points", "one", 1)],
        [(kind, schedule, log) for kind in KINDS for schedule in SCHEDULES for log in (1, 3, 4)],
    ),
)
def test_batches_are_those_of_the_feed_in_its_order(
    kind: str, schedule: str, log: int, folder: Path
) -> None:
    plan = SCHEDULES[schedule]
    staged = staged_inputs(feed_of(kind, folder), plan, log=log)
    plain = StepInputs(feed_of(kind, folder), plan, 0, FULL_BATCH)
    feed, update = feed_of(kind, folder), 0
    both = zip(steps_of(staged, 13, log=log), steps_of(plain, 13, log=log), range(13), strict=True)
    for mine, theirs, step in both:
        assert len(mine) == plan.updates(step)
        assert_same(mine, theirs)
        assert_same(mine, [feed.batch(update + inner) for inner in range(len(mine))])
        update += len(mine)


class Counting:
    """Notes the updates of every copy to the device."""

    def __init__(self, feed: StagedFeed) -> None:
        self.copies: list[range] = []
        stage = feed.stage

        def staging(updates: range, buffers: Sequence[Tensor]) -> None:
            self.copies.append(updates)
            assert all(len(updates) <= len(buffer) for buffer in buffers)
            stage(updates, buffers)

        # `EndlessFeed` is frozen.
        object.__setattr__(feed, "stage", staging)


@pytest.mark.parametrize("kind", ["labelled", "points"])
def test_data_are_copied_at_log_points_and_never_between(kind: str, folder: Path) -> None:
    feed = feed_of(kind, folder)
    counting = Counting(feed)
    for _ in steps_of(staged_inputs(feed, CriticSchedule(2), log=5), 13, log=5):
        pass
    assert counting.copies == [range(0, 10), range(10, 20), range(20, 26)]


def test_a_run_resumed_between_log_points_copies_up_to_the_next_one(folder: Path) -> None:
    feed = feed_of("labelled", folder)
    counting = Counting(feed)
    for _ in steps_of(staged_inputs(feed, CriticSchedule(2), log=5), 12, first=3, log=5):
        pass
    assert counting.copies == [range(6, 10), range(10, 20), range(20, 24)]


def test_a_warm_up_of_many_updates_fits_too(folder: Path) -> None:
    feed = feed_of("labelled", folder)
    counting = Counting(feed)
    for _ in steps_of(staged_inputs(feed, SCHEDULES["warm-up"], log=4), 8):
        pass
    # Steps have 9, 9, 2, 2 and 9, 2, 2, 2 updates.
    assert counting.copies == [range(0, 22), range(22, 37)]


@pytest.mark.parametrize("kind", ["labelled", "points"])
def test_no_more_is_staged_than_the_feed_wants_or_one_step_needs(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Indices and points of this batch take 32 bytes an update.
    monkeypatch.setattr(feeds, "STAGED_BYTES", 5 * 32)
    feed = feed_of(kind, folder)
    assert feed.most_staged == 5
    counting = Counting(feed)
    plain = StepInputs(feed_of(kind, folder), SCHEDULES["warm-up"], 0, FULL_BATCH)
    inputs = staged_inputs(feed, SCHEDULES["warm-up"], log=100)
    both = zip(steps_of(inputs, 7, log=100), steps_of(plain, 7, log=100), strict=True)
    for mine, theirs in both:
        assert_same(mine, theirs)
    bounds = [0, 9, 18, 22, 31, 35]
    assert counting.copies == list(map(range, bounds, bounds[1:]))


def test_streamed_images_are_not_read_ahead_of_their_step(folder: Path) -> None:
    feed = feed_of("streamed", folder)
    counting = Counting(feed)
    schedule = SCHEDULES["warm-up"]
    for _ in steps_of(staged_inputs(feed, schedule), 6):
        pass
    bounds = [schedule.updates_before(step) for step in range(7)]
    assert counting.copies == list(map(range, bounds, bounds[1:]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flip", [False, True])
def test_the_rows_of_two_ranks_are_the_batch_of_one_process(
    kind: str, flip: bool, folder: Path
) -> None:
    def inputs(shard: Shard) -> StagedInputs:
        feed = feed_of(kind, folder, shard=shard, flip=flip)
        return staged_inputs(feed, SCHEDULES["warm-up"], shard=shard)

    alone = steps_of(inputs(FULL_BATCH), 6)
    ranks = [steps_of(inputs(Shard(rank, 2)), 6) for rank in range(2)]
    for whole, first, second in zip(alone, *ranks, strict=True):
        for batch, one, other in zip(whole, first, second, strict=True):
            assert torch.equal(batch.samples, torch.cat([one.samples, other.samples]))
            if batch.labels is not None:
                assert torch.equal(batch.labels, torch.cat([one.labels, other.labels]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", [0, 5, 9])
def test_after_a_restart_any_step_may_come(kind: str, to: int, folder: Path) -> None:
    schedule = SCHEDULES["warm-up"]
    inputs = staged_inputs(feed_of(kind, folder), schedule)
    plain = StepInputs(feed_of(kind, folder), schedule, 0, FULL_BATCH)
    for _ in steps_of(inputs, 6):
        pass
    inputs.restart()
    both = zip(steps_of(inputs, 12, first=to), steps_of(plain, 12, first=to), strict=True)
    for mine, theirs in both:
        assert_same(mine, theirs)


def test_a_step_begun_twice_has_the_same_batches_and_copies_nothing(folder: Path) -> None:
    feed = feed_of("labelled", folder, flip=True)
    counting = Counting(feed)
    inputs = staged_inputs(feed, CriticSchedule(2))
    for step in range(3):
        inputs.begin(step, 4, lambda _: RATES)
        first = [inputs.real(inner) for inner in range(2)]
        inputs.begin(step, 4, lambda _: RATES)
        assert_same(first, [inputs.real(inner) for inner in range(2)])
        inputs.finish()
    assert len(counting.copies) == 1


@pytest.mark.parametrize("kind", ["images", "streamed"])
def test_about_half_of_the_images_are_mirrored_by_seed_and_step(kind: str, folder: Path) -> None:
    schedule = CriticSchedule(9)

    def mirrored(seed: int, first: int = 0) -> list[tuple[bool, ...]]:
        """Which images of each step are mirrored."""
        plain, flipped = (
            staged_inputs(feed_of(kind, folder, flip=flip), schedule, seed=seed)
            for flip in (False, True)
        )
        both = zip(steps_of(plain, 6, first=first), steps_of(flipped, 6, first=first), strict=True)
        found = []
        for ones, others in both:
            before, after = (torch.cat([batch.samples for batch in x]) for x in (ones, others))
            turned = before.flip(3)
            kept = [torch.equal(*pair) for pair in zip(before, after, strict=True)]
            for was, now, turn in zip(kept, after, turned, strict=True):
                assert was or torch.equal(now, turn)
            found.append(tuple(not each for each in kept))
        return found

    whole = mirrored(0)
    assert len(set(whole)) == 6
    count = sum(map(sum, whole))
    # Of 216 images; the standard deviation is 7.3.
    assert 86 <= count <= 130
    assert mirrored(0, first=3) == whole[3:]
    assert mirrored(1) != whole


def test_the_generators_batch_is_that_of_the_last_critic_update(folder: Path) -> None:
    """A relativistic loss asks for it a second time; with mirrored images it is the same one."""
    inputs = staged_inputs(feed_of("labelled", folder, flip=True), CriticSchedule(10))
    for batches in steps_of(inputs, 2):
        assert_same([inputs.real(9)], batches[-1:])


def test_draws_are_those_of_the_step(folder: Path) -> None:
    inputs = staged_inputs(feed_of("images", folder), CriticSchedule(2))
    seen = []
    for _ in steps_of(inputs, 2):
        noise = inputs.generator_draws(Stream.GENERATOR_NOISE).normal((2, 3), CPU)
        pair = [inputs.critic_draws(Stream.CRITIC_NOISE, i).normal((2, 3), CPU) for i in range(2)]
        seen += [noise, *pair]
    assert len(set(torch.cat(seen).flatten().tolist())) == 36
