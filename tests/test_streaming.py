"""Streamed images give the same batches as images in memory, in any order of access."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wgan_cli.data.dataset import Dataset, TensorDataset
from wgan_cli.data.encoded import Faults, ImagePart
from wgan_cli.data.feeds import Batch, EpochOrder, ResidentFeed
from wgan_cli.data.folders import image_folder
from wgan_cli.data.reader_processes import default_workers
from wgan_cli.data.streaming import StreamedDataset, StreamingFeed
from wgan_cli.errors import DataError

CPU = torch.device("cpu")
TRAINING, BATCH = 23, 5
WORKERS = [0, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 training images and 8 held-out ones of two classes; one of each class is damaged."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, counts in (("train", (11, 12)), ("test", (4, 4))):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number:02d}.png")
    for name in ("cat", "dog"):
        (root / "train" / name / "03.png").write_bytes(b"")
    return root


def read(folder: Path, **settings: Any) -> Dataset:
    return image_folder(root=str(folder), **{"size": 8, "corrupt_limit": 0.1, **settings})


def streamed(folder: Path, workers: int, **settings: Any) -> StreamedDataset:
    dataset = read(folder, in_memory=False, workers=workers, **settings)
    assert isinstance(dataset, StreamedDataset)
    return dataset


def assert_same(one: Batch, other: Batch) -> None:
    assert torch.equal(one.samples, other.samples)
    assert one.samples.dtype == torch.float32
    assert one.labels is not None
    assert other.labels is not None
    assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("workers", WORKERS)
def test_batches_are_those_of_the_images_in_memory(folder: Path, workers: int, flip: bool):
    expected = read(folder, in_memory=True, workers=0, flip=flip).feed(BATCH, 7, CPU)
    feed = streamed(folder, workers, flip=flip).feed(BATCH, 7, CPU)
    assert isinstance(expected, ResidentFeed)
    assert isinstance(feed, StreamingFeed)
    for update in range(4 * TRAINING // BATCH):
        assert_same(feed.batch(update), expected.batch(update))


def test_batches_contain_flipped_images(folder: Path):
    plain, mirrored = (streamed(folder, 0, flip=flip).feed(BATCH, 7, CPU) for flip in (False, True))
    kinds = set()
    for update in range(6):
        for one, other in zip(plain.batch(update)[0], mirrored.batch(update)[0], strict=True):
            assert torch.equal(other, one) or torch.equal(other, one.flip(2))
            kinds.add(torch.equal(other, one))
    assert kinds == {True, False}


@pytest.mark.parametrize("workers", WORKERS)
def test_any_update_may_be_asked_for(folder: Path, workers: int):
    expected = read(folder, in_memory=True, workers=0).feed(BATCH, 3, CPU)
    feed = streamed(folder, workers).feed(BATCH, 3, CPU)
    for update in (13, 14, 15, 3, 3, 0, 1, 4, 1000, 1001, 2):
        assert_same(feed.batch(update), expected.batch(update))
    assert len(multiprocessing.active_children()) == workers


def test_a_batch_may_be_the_whole_training_part_and_no_more(folder: Path):
    expected = read(folder, in_memory=True, workers=0)
    dataset = streamed(folder, 0)
    assert_same(dataset.feed(TRAINING, 0, CPU).batch(3), expected.feed(TRAINING, 0, CPU).batch(3))
    answers = []
    for kind in (dataset, expected):
        with pytest.raises(DataError, match=r"24.*23") as caught:
            kind.feed(TRAINING + 1, 0, CPU)
        answers.append(str(caught.value))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("workers", WORKERS)
def test_all_other_properties_equal_those_in_memory(folder: Path, workers: int):
    expected = read(folder, in_memory=True, workers=0)
    dataset = streamed(folder, workers)
    assert isinstance(expected, TensorDataset)
    assert dataset.name == expected.name
    assert dataset.sample_shape == expected.sample_shape == (3, 8, 8)
    assert dataset.training_size == expected.training_size == TRAINING
    assert dataset.modes is None
    assert torch.equal(dataset.held_out, expected.held_out)
    assert dataset.labels is not None
    assert expected.labels is not None
    assert torch.equal(dataset.labels.train, expected.labels.train)
    assert torch.equal(dataset.labels.held_out, expected.labels.held_out)
    chosen = torch.tensor([22, 3, 0, 14, 3])
    assert torch.equal(dataset.training_sample(chosen), expected.training_sample(chosen))


@pytest.mark.parametrize("workers", WORKERS)
def test_damaged_images_are_named_once(
    folder: Path, workers: int, caplog: pytest.LogCaptureFixture
):
    dataset = streamed(folder, workers)
    feed = dataset.feed(BATCH, 0, CPU)
    for update in range(15):
        feed.batch(update)
    dataset.training_sample(torch.arange(TRAINING))
    named = [r.getMessage() for r in caplog.records if "cannot be read" in r.getMessage()]
    assert len(named) == 2
    assert all(any(f"{name}/03.png" in line for line in named) for name in ("cat", "dog"))


@pytest.mark.parametrize("workers", WORKERS)
def test_too_many_damaged_images_are_an_error_once_they_are_read(folder: Path, workers: int):
    feed = streamed(folder, workers, corrupt_limit=0.01).feed(BATCH, 0, CPU)
    with pytest.raises(DataError, match=r"more than 1 of 31 images.*03\.png"):
        for update in range(5):
            feed.batch(update)


def test_what_fits_is_held_in_memory_and_what_does_not_is_streamed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    bytes_needed = TRAINING * 3 * 8 * 8
    for budget, kind in ((bytes_needed, TensorDataset), (bytes_needed - 1, StreamedDataset)):
        monkeypatch.setattr("wgan_cli.data.streaming.IN_MEMORY_GIB", budget / 2**30)
        assert isinstance(read(folder, workers=0), kind)


def test_many_images_are_loaded_by_processes_as_by_this_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = read(folder, in_memory=True, workers=0)
    monkeypatch.setattr("wgan_cli.data.reader_processes._MIN_FOR_PROCESSES", 0)
    monkeypatch.setattr("wgan_cli.data.reader_processes._CHUNK", 4)
    dataset = read(folder, in_memory=True, workers=2)
    assert isinstance(dataset, TensorDataset)
    assert isinstance(expected, TensorDataset)
    assert torch.equal(dataset.train, expected.train)
    assert torch.equal(dataset.held_out, expected.held_out)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", WORKERS)
def test_reading_leaves_global_randomness_and_threads_alone(folder: Path, workers: int):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    streamed(folder, workers).feed(BATCH, 0, CPU).batch(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_no_process_outlives_its_feed(folder: Path):
    feed = streamed(folder, 2).feed(BATCH, 0, CPU)
    feed.batch(0)
    assert len(multiprocessing.active_children()) == 2
    # At once, not only when cycles are collected.
    gc.disable()
    try:
        del feed
        assert multiprocessing.active_children() == []
    finally:
        gc.enable()


def test_there_is_one_process_per_core_up_to_a_maximum():
    assert 1 <= default_workers() <= min(8, os.cpu_count() or 1)


def test_processes_on_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wgan_cli.cores.usable_cores", lambda *_: 12)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_workers() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert default_workers() == 1


class Numbers:
    """Images filled with their index, opened by a function that the test chooses."""

    def __len__(self) -> int:
        return TRAINING

    def name(self, place: int) -> str:
        return f"image {place}"

    def open(self, place: int) -> Image.Image:
        return Image.new("L", (8, 8), place)


class Exhausted(Numbers):
    def open(self, place: int) -> Image.Image:
        if place == 13:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().open(place)


class Fatal(Numbers):
    def open(self, place: int) -> Image.Image:
        if place == 13:
            os._exit(7)
        return super().open(place)


class Curious(Numbers):
    """Images filled with the number of torch's threads."""

    def open(self, place: int) -> Image.Image:
        return Image.new("L", (8, 8), torch.get_num_threads())


class Lopsided(Numbers):
    """Images whose left half is white."""

    def open(self, place: int) -> Image.Image:
        image = Image.new("L", (8, 8))
        image.paste(255, (0, 0, 4, 8))
        return image


def feed_of(source: Numbers, workers: int, **settings: Any) -> StreamingFeed:
    part = ImagePart(source, np.arange(TRAINING), 8, 1, Faults("numbers", TRAINING, 0.2))
    given = {"batch_size": BATCH, **settings}
    return StreamingFeed(part, seed=0, device=CPU, workers=workers, **given)


def test_every_update_mirrors_other_images():
    feed = feed_of(Lopsided(), 0, batch_size=16, flip=True)
    mirrored = {tuple((feed.batch(u).samples[:, 0, 0, 0] < 0).tolist()) for u in range(5)}
    assert len(mirrored) == 5
    assert all(0 < sum(pattern) < 16 for pattern in mirrored)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_closed_feed_has_no_processes_and_can_continue(workers: int):
    feed = feed_of(Numbers(), workers)
    feed.close()
    first = feed.batch(0).samples
    feed.close()
    assert multiprocessing.active_children() == []
    assert torch.equal(feed.batch(0).samples, first)


def test_images_come_in_the_order_that_is_shared_with_the_feed_in_memory():
    order = EpochOrder(TRAINING, BATCH, 0)
    batch = feed_of(Numbers(), 2).batch(11)
    numbers = batch.samples[:, 0, 0, 0].add(1).mul(127.5).round()
    assert numbers.tolist() == order.indices(11).tolist()
    assert batch.labels is None


def test_each_process_computes_on_one_thread():
    batch = feed_of(Curious(), 1).batch(0)
    assert batch.samples.add(1).mul(127.5).round().unique().tolist() == [1]


@pytest.mark.parametrize("workers", WORKERS)
def test_an_error_of_the_machine_is_reported_and_replaces_no_image(workers: int):
    feed = feed_of(Exhausted(), workers)
    with pytest.raises(DataError) as caught:
        for update in range(5):
            feed.batch(update)
    message = str(caught.value)
    assert message.startswith("numbers: reading its images failed (")
    assert "Too many open files" in message
    assert "dataset.workers=0" in message
    assert "\n" not in message
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_answered():
    feed = feed_of(Fatal(), 2)
    with pytest.raises(DataError, match=r"numbers: reading its images failed \(.*exited"):
        for update in range(5):
            feed.batch(update)
    assert multiprocessing.active_children() == []


FORGOTTEN = """
import sys
sys.path.insert(0, {tests!r})
from test_streaming import Exhausted, Numbers, feed_of

feeds = [feed_of(Numbers(), 2), feed_of(Exhausted(), 2)]
feeds[0].batch(0)
feeds[0].me = feeds[0]
try:
    for update in range(5):
        feeds[1].batch(update)
except Exception as error:
    feeds.append(error)
print(len(feeds))
"""


def test_python_exits_although_a_feed_was_not_closed():
    code = FORGOTTEN.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "3\n"
    assert "Traceback" not in done.stderr
