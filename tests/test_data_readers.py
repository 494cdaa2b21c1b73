"""Reading tiny files in the formats of the data sets, and the synthetic data sets."""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from scipy.stats import ks_2samp
from sklearn.datasets import make_swiss_roll

from wgan_cli.data.dataset import EndlessDataset
from wgan_cli.data.images import digits, torchvision_images
from wgan_cli.data.synthetic import gaussians_grid, gaussians_ring, swiss_roll
from wgan_cli.errors import DataError

FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
TRAIN, TEST = 12, 9


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str) -> dict[str, np.ndarray]:
    raw = root / FOLDERS[name] / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = {}
    for prefix, count in (("train", TRAIN), ("t10k", TEST)):
        images[prefix] = rng.integers(0, 256, (count, 28, 28))
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images[prefix])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", rng.integers(0, 10, count))
    return images


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name: str, content: object) -> list[str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(count: int) -> dict[str, object]:
        return {
            "data": rng.integers(0, 256, (count, 3072)).astype(np.uint8),
            "labels": rng.integers(0, 10, count).tolist(),
        }

    train = [batch(3) for _ in range(5)]
    test = batch(TEST)
    kind = torchvision.datasets.CIFAR10
    lists = [write(f"data_batch_{n}", part) for n, part in enumerate(train, 1)]
    meta = write("batches.meta", {"label_names": [str(n) for n in range(10)]})
    monkeypatch.setattr(kind, "train_list", lists)
    monkeypatch.setattr(kind, "test_list", [write("test_batch", test)])
    monkeypatch.setattr(kind, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return {
        "train": np.concatenate([part["data"] for part in train]).reshape(-1, 3, 32, 32),
        "test": np.asarray(test["data"]).reshape(-1, 3, 32, 32),
    }


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_idx_files_are_read_pixel_for_pixel(tmp_path: Path, name: str):
    images = write_mnist(tmp_path, name)
    dataset = torchvision_images(name, str(tmp_path), download=False)
    assert dataset.name == name
    assert dataset.sample_shape == (1, 28, 28)
    assert dataset.train.dtype == dataset.held_out.dtype == torch.uint8
    assert np.array_equal(dataset.train[:, 0].numpy(), images["train"])
    assert np.array_equal(dataset.held_out[:, 0].numpy(), images["t10k"])


def test_cifar_files_are_read_with_the_channels_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images = write_cifar(tmp_path, monkeypatch)
    dataset = torchvision_images("cifar10", str(tmp_path), download=False)
    assert dataset.sample_shape == (3, 32, 32)
    assert dataset.train.dtype == torch.uint8
    assert dataset.train.is_contiguous()
    assert np.array_equal(dataset.train.numpy(), images["train"])
    assert np.array_equal(dataset.held_out.numpy(), images["test"])


def test_a_root_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_mnist(tmp_path / "sets", "mnist")
    assert len(torchvision_images("mnist", "~/sets", download=False).train) == TRAIN


@pytest.mark.parametrize("name", [*FOLDERS, "cifar10", "cifar100"])
def test_missing_files_are_answered_with_the_path_and_what_to_do(tmp_path: Path, name: str):
    with pytest.raises(DataError) as caught:
        torchvision_images(name, str(tmp_path / "nothing"), download=False)
    message = str(caught.value)
    assert str(tmp_path / "nothing") in message
    assert "dataset.download=true" in message
    assert not (tmp_path / "nothing").exists()


def test_a_missing_test_part_is_an_error(tmp_path: Path):
    write_mnist(tmp_path, "mnist")
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match="mnist cannot be read"):
        torchvision_images("mnist", str(tmp_path), download=False)


@pytest.mark.parametrize("kept", [0, 3, 100])
def test_a_file_that_is_cut_short_is_an_error(tmp_path: Path, kept: int):
    write_mnist(tmp_path, "mnist")
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="mnist cannot be read") as caught:
        torchvision_images("mnist", str(tmp_path), download=False)
    assert str(tmp_path) in str(caught.value)


def test_a_changed_cifar_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_cifar(tmp_path, monkeypatch)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match="cifar10 cannot be read"):
        torchvision_images("cifar10", str(tmp_path), download=False)


@pytest.mark.parametrize("download", [False, True])
def test_a_root_that_is_a_file_is_named(tmp_path: Path, download: bool):
    path = tmp_path / "data"
    path.write_text("not a folder")
    with pytest.raises(DataError, match="is a file") as caught:
        torchvision_images("mnist", str(path), download=download)
    assert str(path) in str(caught.value)


def test_a_failed_download_is_answered_with_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", offline)
    with pytest.raises(DataError, match="no route to host") as caught:
        torchvision_images("mnist", str(tmp_path), download=True)
    assert str(tmp_path) in str(caught.value)
    assert "dataset.download=false" in str(caught.value)


def test_too_few_images_are_an_error(tmp_path: Path):
    write_mnist(tmp_path, "mnist")
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw / "t10k-images-idx3-ubyte", np.zeros((2, 28, 28)))
    write_idx(raw / "t10k-labels-idx1-ubyte", np.zeros(2))
    with pytest.raises(DataError, match="held-out part has 2"):
        torchvision_images("mnist", str(tmp_path), download=False)


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path):
    with pytest.raises(DataError, match="fashion_mnist"):
        torchvision_images("mnits", str(tmp_path), download=False)


def test_digits_span_black_to_white():
    dataset = digits()
    assert dataset.sample_shape == (1, 8, 8)
    assert dataset.train.dtype == torch.uint8
    assert int(dataset.train.min()) == 0
    assert int(dataset.train.max()) == 255
    assert len(dataset.train.unique()) == 17


@pytest.mark.parametrize(("modes", "radius", "std"), [(8, 1.0, 0.05), (5, 3.0, 0.1), (1, 2.0, 0.3)])
def test_ring_has_equal_round_modes_at_even_angles(modes: int, radius: float, std: float):
    ring = gaussians_ring(modes=modes, radius=radius, std=std)
    points = ring.draw(np.random.default_rng(0), 20_000)
    assert points.dtype == np.float32
    angles = 2 * np.pi * np.arange(modes) / modes
    centres = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert_modes(ring, centres, std)
    assert_equal_round_gaussians(points, centres, std)


@pytest.mark.parametrize(("side", "spacing", "std"), [(5, 1.0, 0.05), (2, 3.0, 0.2), (1, 1.0, 1.0)])
def test_grid_has_equal_round_modes_in_rows_and_columns(side: int, spacing: float, std: float):
    grid = gaussians_grid(side=side, spacing=spacing, std=std)
    points = grid.draw(np.random.default_rng(0), 40_000)
    assert points.dtype == np.float32
    line = [spacing * (place - (side - 1) / 2) for place in range(side)]
    centres = np.array([[x, y] for x in line for y in line])
    assert_modes(grid, centres, std)
    assert_equal_round_gaussians(points, centres, std)


def test_the_grid_is_the_papers_by_default():
    grid = gaussians_grid()
    line = (-2.0, -1.0, 0.0, 1.0, 2.0)
    assert grid.modes is not None
    assert {tuple(centre) for centre in grid.modes.centres} == {(x, y) for x in line for y in line}
    assert grid.modes.std == 0.05
    assert grid.sample_shape == (2,)


@pytest.mark.parametrize("noise", [0.0, 0.25])
def test_the_swiss_roll_is_that_of_the_papers_code(noise: float):
    n = 20_000
    points = swiss_roll(noise=noise).draw(np.random.default_rng(0), n)
    assert points.shape == (n, 2)
    assert points.dtype == np.float32
    # arXiv 1704.00028's gan_toy.py.
    theirs = make_swiss_roll(n_samples=n, noise=noise, random_state=0)[0]
    theirs = theirs.astype("float32")[:, [0, 2]] / 7.5
    for angle in (0.0, 0.7, 1.6, 2.9):
        direction = np.array([np.cos(angle), np.sin(angle)])
        assert ks_2samp(points @ direction, theirs @ direction).statistic < 0.02
    radius = np.linalg.norm(points, axis=1)
    assert ks_2samp(radius, np.linalg.norm(theirs, axis=1)).statistic < 0.02
    if noise == 0:
        t = 7.5 * radius
        assert np.allclose(
            7.5 * points, t[:, None] * np.stack([np.cos(t), np.sin(t)], 1), atol=1e-3
        )


def assert_modes(dataset: EndlessDataset, centres: np.ndarray, std: float) -> None:
    assert dataset.modes is not None
    assert np.allclose(dataset.modes.centres, centres)
    assert dataset.modes.std == std


def assert_equal_round_gaussians(points: np.ndarray, centres: np.ndarray, std: float) -> None:
    nearest = np.linalg.norm(points[:, None] - centres[None], axis=2).argmin(axis=1)
    for mode, centre in enumerate(centres):
        own = points[nearest == mode]
        assert len(own) / len(points) == pytest.approx(1 / len(centres), rel=0.15)
        assert np.allclose(own.mean(axis=0), centre, atol=6 * std / len(own) ** 0.5)
        assert np.allclose(own.std(axis=0), std, rtol=0.08)
        assert abs(np.corrcoef(own.T)[0, 1]) < 0.1


@pytest.mark.parametrize("make", [gaussians_ring, gaussians_grid, swiss_roll])
def test_endless_sets_hold_out_points_of_their_own(make: Callable[[], EndlessDataset]):
    ring = make()
    held_out = ring.held_out
    assert held_out.shape == (4096, 2)
    assert held_out.dtype == torch.float32
    assert torch.equal(held_out, ring.held_out)
    for seed in (0, 1):
        batch = ring.feed(64, seed, torch.device("cpu")).batch(0).samples
        assert not set(map(tuple, batch.tolist())) & set(map(tuple, held_out.tolist()))
    sample = ring.training_sample(torch.arange(100))
    assert not set(map(tuple, sample.tolist())) & set(map(tuple, held_out.tolist()))


@pytest.mark.parametrize("moved", [False, True])
def test_the_digits_are_scikit_learns(moved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits

    from wgan_cli.data import images as reading

    if moved:
        monkeypatch.setattr(reading, "find_spec", lambda name: None)
    loaded, table = load_digits(), reading.digits_table()
    assert np.array_equal(table[:, :-1].reshape(-1, 8, 8), loaded.images)
    assert np.array_equal(table[:, -1], loaded.target)
