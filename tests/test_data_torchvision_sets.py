"""EMNIST, CIFAR-100, SVHN, STL-10 and stacked MNIST, read from small files in their formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import formats
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wgan_cli.data import stacked
from wgan_cli.data.dataset import Dataset, Labels, TensorDataset
from wgan_cli.data.images import (
    emnist,
    flippable_images,
    resize,
    stl10,
    svhn,
    torchvision_images,
)
from wgan_cli.data.stacked import stacked_mnist
from wgan_cli.data.synthetic import swiss_roll
from wgan_cli.errors import DataError
from wgan_cli.evaluation.registry import data_kinds
from wgan_cli.schema import traits
from wgan_cli.schema.traits import DatasetTraits

RNG = np.random.default_rng(0)
COUNTS = {"train": 12, "test": 9, "extra": 10, "unlabeled": 11}


@pytest.fixture(autouse=True)
def any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    formats.accept_any_checksum(monkeypatch)


def pictures(part: str, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (COUNTS[part], *shape), dtype=np.uint8)


def labelled(
    shape: tuple[int, ...], first: int, last: int, *parts: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random images, and labels that count up from `first` and include `last`."""
    made = {}
    for part in parts:
        labels = np.minimum(first + np.arange(COUNTS[part]), last)
        labels[-1] = last
        made[part] = pictures(part, *shape), labels
    return made


def labels_of(dataset: TensorDataset) -> Labels:
    assert dataset.labels is not None
    return dataset.labels


def assert_equal(found: Tensor, expected: np.ndarray) -> None:
    assert found.dtype == torch.from_numpy(expected).dtype
    assert found.is_contiguous()
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize(
    ("split", "first", "classes"),
    [
        ("byclass", 0, 62),
        ("bymerge", 0, 47),
        ("balanced", 0, 47),
        ("letters", 1, 26),
        ("digits", 0, 10),
        ("mnist", 0, 10),
    ],
)
def test_emnist_images_are_upright_and_labels_count_from_0(
    tmp_path: Path, split: str, first: int, classes: int
):
    parts = labelled((28, 28), first, first + classes - 1, "train", "test")
    formats.write_emnist(tmp_path, split, parts)
    dataset = emnist(root=str(tmp_path), download=False, split=split)
    assert_equal(dataset.train, parts["train"][0][:, None])
    assert_equal(dataset.held_out, parts["test"][0][:, None])
    labels = labels_of(dataset)
    assert_equal(labels.train, parts["train"][1] - first)
    assert_equal(labels.held_out, parts["test"][1] - first)
    assert int(labels.train.min()) == 0
    assert int(labels.train.max()) + 1 == classes


def test_cifar100_has_the_fine_labels(tmp_path: Path):
    parts = labelled((3, 32, 32), 0, 99, "train", "test")
    formats.write_cifar100(tmp_path, parts)
    dataset = torchvision_images("cifar100", str(tmp_path), download=False, flip=True)
    assert dataset.flip
    assert_equal(dataset.train, parts["train"][0])
    assert_equal(dataset.held_out, parts["test"][0])
    assert_equal(labels_of(dataset).train, parts["train"][1])
    assert_equal(labels_of(dataset).held_out, parts["test"][1])


@pytest.mark.parametrize("extra", [False, True])
def test_svhn_has_its_digits_and_the_extra_part_on_request(tmp_path: Path, extra: bool):
    parts = labelled((3, 32, 32), 0, 9, "train", "test", "extra")
    formats.write_svhn(tmp_path, parts)
    dataset = svhn(root=str(tmp_path), download=False, extra=extra)
    training = [parts["train"], parts["extra"]] if extra else [parts["train"]]
    assert_equal(dataset.train, np.concatenate([images for images, _ in training]))
    assert_equal(dataset.held_out, parts["test"][0])
    assert_equal(labels_of(dataset).train, np.concatenate([digits for _, digits in training]))
    assert_equal(labels_of(dataset).held_out, parts["test"][1])


def write_stl10(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    parts = labelled((3, 96, 96), 0, 9, "train", "test")
    every = {**parts, "unlabeled": (pictures("unlabeled", 3, 96, 96), None)}
    formats.write_stl10(root, every)
    return every


def test_stl10_at_its_own_size_is_the_files_pixel_for_pixel(tmp_path: Path):
    parts = write_stl10(tmp_path)
    dataset = stl10(root=str(tmp_path), download=False, size=96, unlabeled=False)
    assert_equal(dataset.train, parts["train"][0])
    assert_equal(dataset.held_out, parts["test"][0])
    assert parts["train"][1] is not None
    assert_equal(labels_of(dataset).train, parts["train"][1])


def test_stl10_with_its_unlabelled_part_has_no_labels(tmp_path: Path):
    parts = write_stl10(tmp_path)
    dataset = stl10(root=str(tmp_path), download=False, size=96, unlabeled=True, flip=True)
    assert_equal(dataset.train, np.concatenate([parts["train"][0], parts["unlabeled"][0]]))
    assert dataset.labels is None
    assert dataset.flip
    small = stl10(root=str(tmp_path), download=False)
    assert small.sample_shape == (3, 64, 64)
    assert len(small.train) == COUNTS["train"] + COUNTS["unlabeled"]


@pytest.mark.parametrize("size", [48, 64])
def test_resizing_is_that_of_pillow(size: int):
    image = RNG.integers(0, 256, (3, 96, 96), dtype=np.uint8)
    found = resize(torch.from_numpy(image[None]), size)[0]
    pillow = Image.fromarray(image.transpose(1, 2, 0)).resize(
        (size, size), Image.Resampling.BILINEAR
    )
    expected = np.asarray(pillow).transpose(2, 0, 1).astype(int)
    assert found.dtype == torch.uint8
    # Pillow rounds after each of its two passes.
    assert np.abs(found.numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("read", "name"), [(emnist, "emnist"), (svhn, "svhn"), (stl10, "stl10")])
def test_missing_files_are_answered_with_the_path_and_what_to_do(
    tmp_path: Path, read: Callable[..., TensorDataset], name: str
):
    with pytest.raises(DataError, match=f"{name} cannot be read") as caught:
        read(root=str(tmp_path / "nothing"), download=False)
    assert str(tmp_path / "nothing") in str(caught.value)
    assert "dataset.download=true" in str(caught.value)


def test_what_the_schema_says_of_a_set_is_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def known(read: Callable[..., Dataset]) -> DatasetTraits:
        return traits("dataset", {"_target_": f"{read.__module__}.{read.__name__}"})

    assert known(stacked_mnist).training_size == stacked.TRAINING_SIZE
    assert known(stacked_mnist).held_out_size == stacked.HELD_OUT_SIZE
    monkeypatch.setattr(stacked, "TRAINING_SIZE", 20)
    monkeypatch.setattr(stacked, "HELD_OUT_SIZE", 20)
    write_mnist(tmp_path)
    formats.write_emnist(tmp_path, "balanced", labelled((28, 28), 0, 46, "train", "test"))
    formats.write_svhn(tmp_path, labelled((3, 32, 32), 0, 9, "train", "test"))
    for read in (torchvision_images, flippable_images, stacked_mnist, emnist, svhn):
        named = {"name": "mnist"} if read in (torchvision_images, flippable_images) else {}
        found = data_kinds(read(root=str(tmp_path), download=False, **named))
        assert found == set(known(read).kinds or ()), read
    assert data_kinds(swiss_roll()) == set(known(swiss_roll).kinds or ())


def write_mnist(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    parts = labelled((28, 28), 0, 9, "train", "test")
    for prefix, (images, labels) in zip(("train", "t10k"), parts.values(), strict=True):
        formats.write_idx(root / f"MNIST/raw/{prefix}-images-idx3-ubyte", images)
        formats.write_idx(root / f"MNIST/raw/{prefix}-labels-idx1-ubyte", labels)
    return parts


def test_stacked_mnist_has_triples_of_digits_of_the_same_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stacked, "TRAINING_SIZE", 3000)
    monkeypatch.setattr(stacked, "HELD_OUT_SIZE", 1000)
    parts = write_mnist(tmp_path)
    dataset = stacked_mnist(root=str(tmp_path), download=False)
    labels = labels_of(dataset)
    assert labels.channel_classes == 10
    assert dataset.train.shape == (3000, 3, 28, 28)
    assert dataset.held_out.shape == (1000, 3, 28, 28)
    for triples, numbers, (images, digits) in (
        (dataset.train, labels.train, parts["train"]),
        (dataset.held_out, labels.held_out, parts["test"]),
    ):
        digit_of = {
            image.tobytes(): int(digit) for image, digit in zip(images, digits, strict=True)
        }
        shown = [[digit_of[channel.numpy().tobytes()] for channel in triple] for triple in triples]
        assert [100 * r + 10 * g + b for r, g, b in shown] == numbers.tolist()
        for place in range(3):
            # Every image is about as frequent in each channel as any other.
            counts = Counter(triple[place].numpy().tobytes() for triple in triples).values()
            assert len(counts) == len(images)
            assert min(counts) > 0.6 * len(triples) / len(images)
    again = stacked_mnist(root=str(tmp_path), download=False)
    assert torch.equal(again.train, dataset.train)
    assert torch.equal(again.held_out, dataset.held_out)
