"""A user's numpy arrays: shapes, ranges, names, and invalid files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wgan_cli.data.arrays import array
from wgan_cli.data.dataset import TensorDataset
from wgan_cli.errors import DataError

RNG = np.random.default_rng(0)
POINTS = RNG.standard_normal((50, 5)) * 1000
GREY = RNG.integers(0, 256, (50, 6, 7), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (50, 3, 6, 7), dtype=np.uint8)
LABELS = np.arange(50) % 4


def npz(folder: Path, **arrays: Any) -> str:
    path = folder / "own.npz"
    np.savez(path, **arrays)
    return str(path)


def npy(folder: Path, values: Any) -> str:
    path = folder / "own.npy"
    np.save(path, values)
    return str(path)


def all_of(dataset: TensorDataset) -> np.ndarray:
    return torch.cat([dataset.train, dataset.held_out]).numpy()


def rows(samples: np.ndarray) -> list[bytes]:
    return sorted(sample.tobytes() for sample in np.ascontiguousarray(samples))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f8"])
def test_points_are_not_scaled(tmp_path: Path, dtype: str):
    points = POINTS.astype(dtype)
    dataset = array(path=npy(tmp_path, points))
    assert dataset.sample_shape == (5,)
    assert dataset.train.dtype == torch.float32
    assert rows(all_of(dataset)) == rows(points.astype(np.float32))


@pytest.mark.parametrize(
    ("stored", "images"),
    [
        (GREY, GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (COLOUR, COLOUR),
        (COLOUR.transpose(0, 2, 3, 1), COLOUR),
        ((COLOUR / 255).astype(np.float32), COLOUR),
        (COLOUR / 127.5 - 1, COLOUR),
        (np.asfortranarray(GREY / 255), GREY[:, None]),
    ],
    ids=["nhw", "n1hw", "nhw1", "n3hw", "nhw3", "0 to 1", "-1 to 1", "fortran"],
)
def test_images_of_every_layout_and_range_become_bytes(
    tmp_path: Path, stored: np.ndarray, images: np.ndarray
):
    dataset = array(path=npy(tmp_path, stored))
    assert dataset.sample_shape == images.shape[1:]
    assert dataset.train.dtype == torch.uint8
    assert dataset.train.is_contiguous()
    assert rows(all_of(dataset)) == rows(images)


def test_one_range_holds_for_both_parts(tmp_path: Path):
    images = GREY / 127.5 - 1
    bright = np.abs(images)
    dataset = array(path=npz(tmp_path, train=bright, test=images))
    assert int(dataset.train.min()) >= 127
    assert np.array_equal(dataset.held_out[:, 0].numpy(), GREY)


def test_without_a_test_part_a_fixed_fifth_is_held_out_with_its_labels(tmp_path: Path):
    path = npz(tmp_path, x=POINTS, y=LABELS)
    dataset = array(path=path)
    assert (len(dataset.train), len(dataset.held_out)) == (40, 10)
    assert torch.equal(dataset.held_out, array(path=path).held_out)
    label_of = {
        row.tobytes(): label for row, label in zip(POINTS.astype(np.float32), LABELS, strict=True)
    }
    assert dataset.labels is not None
    for samples, labels in (
        (dataset.train, dataset.labels.train),
        (dataset.held_out, dataset.labels.held_out),
    ):
        assert [label_of[row.numpy().tobytes()] for row in samples] == labels.tolist()


@pytest.mark.parametrize("names", [("x_train", "x_test"), ("train", "test")])
def test_the_two_parts_by_name(tmp_path: Path, names: tuple[str, str]):
    arrays = {names[0]: GREY[:30], names[1]: GREY[30:]}
    plain = array(path=npz(tmp_path, **arrays))
    assert np.array_equal(plain.train[:, 0].numpy(), GREY[:30])
    assert np.array_equal(plain.held_out[:, 0].numpy(), GREY[30:])
    assert plain.labels is None
    column = LABELS[30:, None].astype(np.uint8)
    labelled = array(path=npz(tmp_path, **arrays, y_train=LABELS[:30], y_test=column)).labels
    assert labelled is not None
    assert labelled.train.tolist() == LABELS[:30].tolist()
    assert labelled.held_out.tolist() == LABELS[30:].tolist()


def test_a_class_only_in_the_test_part_is_refused(tmp_path: Path):
    labels = np.where(np.arange(len(GREY)) < 30, 0, 1)
    path = npz(
        tmp_path, x_train=GREY[:30], x_test=GREY[30:], y_train=labels[:30], y_test=labels[30:]
    )
    with pytest.raises(
        DataError, match="its test part has labels that are not in its training part"
    ):
        array(path=path)


@pytest.mark.parametrize("name", ["x", "images", "data", "samples", "anything"])
def test_all_samples_in_one_array_by_name(tmp_path: Path, name: str):
    assert rows(all_of(array(path=npz(tmp_path, **{name: POINTS})))) == rows(
        POINTS.astype(np.float32)
    )


def test_a_key_chooses_among_arrays(tmp_path: Path):
    path = npz(tmp_path, x=POINTS, other=2 * POINTS, labels=LABELS)
    dataset = array(path=path, key="other")
    assert rows(all_of(dataset)) == rows((2 * POINTS).astype(np.float32))
    assert dataset.labels is not None
    path = npz(tmp_path, x_train=GREY, x_test=GREY[30:], y_train=LABELS)
    dataset = array(path=path, key="x_train")
    assert rows(all_of(dataset)) == rows(GREY[:, None])
    assert dataset.labels is not None


def test_a_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    npy(tmp_path, POINTS)
    assert array(path="~/own.npy").sample_shape == (5,)


def test_there_are_at_most_as_many_classes_as_samples_in_both_parts(tmp_path: Path):
    parts = {"x_train": POINTS[:40], "x_test": POINTS[40:]}
    most = {"y_train": np.arange(10, 50), "y_test": np.arange(40, 50)}
    labels = array(path=npz(tmp_path, **parts, **most)).labels
    assert labels is not None
    assert labels.held_out.tolist() == list(range(40, 50))
    with pytest.raises(DataError, match="y_train goes from 11 to 50"):
        array(path=npz(tmp_path, **parts, **{name: each + 1 for name, each in most.items()}))
    many = np.arange(70_000, dtype=np.float32)[:, None]
    with pytest.raises(DataError, match="must be classes from 0 to 65535 "):
        array(path=npz(tmp_path, x=many, y=np.arange(70_000)))


BAD_POINTS = np.where(POINTS > 900, np.nan, POINTS)
OBJECTS = np.array([{}] * 20)


@pytest.mark.parametrize(
    ("arrays", "key", "words"),
    [
        ({"x": POINTS[:6]}, None, "needs 8 or more"),
        ({"x": POINTS[:0]}, None, "no samples"),
        ({"x": np.zeros((60, 3))}, None, "are equal"),
        ({"x": BAD_POINTS}, None, "NaN or infinite"),
        ({"x": POINTS * 1e300}, None, "NaN or infinite"),
        ({"x": OBJECTS}, None, "array x: it cannot be read as numbers"),
        ({"x": np.arange(100).reshape(20, 5)}, None, r"int64 of shape \(20, 5\); allowed are"),
        ({"x": GREY.reshape(50, -1)}, None, r"uint8 of shape \(50, 42\); allowed are"),
        ({"x": GREY.astype(int)}, None, "int64 of shape"),
        ({"x": POINTS[:, 0]}, None, r"shape \(50,\); allowed are"),
        ({"x": COLOUR[:, None]}, None, "allowed are"),
        ({"x": COLOUR[:, :2]}, None, "1 or 3 channels"),
        ({"x": GREY / 2}, None, r"from 0 to 127\.5; scale them"),
        ({"x": POINTS, "y": LABELS / 2}, None, "y is float64"),
        ({"x": POINTS, "y": LABELS[:40]}, None, r"y is int64 of shape \(40,\)"),
        ({"x": POINTS, "y": LABELS - 1}, None, "from 0 to .* y goes from -1 to 2"),
        ({"x": POINTS, "y": LABELS * 17}, None, "from 0 to 49 .*, but y goes from 0 to 51"),
        ({"x": POINTS, "y": LABELS * 10**13}, None, "must be classes from 0 to 49 "),
        ({"x": POINTS, "y": (LABELS - 1).astype(np.uint64)}, None, "must be classes from 0 to 49 "),
        ({"x": np.float64(3)}, None, "allowed are"),
        ({"train": GREY, "test": GREY, "y_train": LABELS}, None, "one of its two parts"),
        ({"train": GREY, "test": COLOUR}, None, "held-out ones"),
        ({"first": GREY, "second": GREY}, None, "named first, second; set dataset.key"),
        ({"x": GREY}, "images", "no array images .* only x"),
        ({}, None, "named nothing"),
    ],
)
def test_unusable_arrays_are_refused_with_the_name_of_the_file(
    tmp_path: Path, arrays: dict[str, Any], key: str | None, words: str
):
    path = npz(tmp_path, **arrays)
    with pytest.raises(DataError, match=words) as caught:
        array(path=path, key=key)
    assert str(caught.value).startswith(f"dataset.path={path}: ")
    assert "\n" not in str(caught.value)


def test_a_key_for_an_npy_file_has_no_effect_and_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"dataset\.key=x has no effect"):
        array(path=npy(tmp_path, POINTS), key="x")


def test_a_missing_file_names_the_key(tmp_path: Path):
    with pytest.raises(DataError, match=r"no such file; set dataset\.path"):
        array(path=str(tmp_path / "none.npz"))
    with pytest.raises(DataError, match="cannot be read"):
        array(path=str(tmp_path))


@pytest.mark.parametrize("name", ["own.npz", "own.npy"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_a_damaged_file_is_an_error(tmp_path: Path, name: str, damage: str):
    path = tmp_path / name
    if name == "own.npz":
        np.savez_compressed(path, x=POINTS)
    else:
        np.save(path, POINTS)
    good = path.read_bytes()
    middle = len(good) // 2
    flipped = good[:middle] + bytes([good[middle] ^ 255]) + good[middle + 1 :]
    contents = {"cut": good[:middle], "flipped": flipped, "text": b"1,2,3\n" * 9, "empty": b""}
    path.write_bytes(contents[damage])
    if (name, damage) == ("own.npy", "flipped"):
        # This format has no checksum.
        return
    with pytest.raises(DataError, match="cannot be read as numbers"):
        array(path=str(path))


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return self.mark.mkdir, ()


def test_nothing_pickled_is_loaded(tmp_path: Path):
    objects = np.empty(20, dtype=object)
    objects[:] = [Payload(tmp_path / "ran")] * 20
    for path in (npy(tmp_path, objects), npz(tmp_path, x=objects)):
        with pytest.raises(DataError, match="without Python objects"):
            array(path=path)
    assert not (tmp_path / "ran").exists()
