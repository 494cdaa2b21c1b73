"""CelebA and LSUN, read from small files in their own formats."""

from __future__ import annotations

import mmap
import pickle
import sys
from pathlib import Path

import formats
import numpy as np
import pytest
import torch
from PIL import Image, UnidentifiedImageError

from wgan_cli.data.celeba import celeba
from wgan_cli.data.dataset import TensorDataset
from wgan_cli.data.encoded import Faults, ImagePart, to_square
from wgan_cli.data.lsun import Database, lsun
from wgan_cli.data.streaming import StreamedDataset
from wgan_cli.errors import DataError

CPU = torch.device("cpu")
# Of a database on this machine.
PAGE = mmap.PAGESIZE
PARTS = [0] * 12 + [1] * 5 + [2] * 9


def rows(images: torch.Tensor) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in images)


def squares(images: list[np.ndarray], size: int) -> torch.Tensor:
    found = [to_square(Image.fromarray(pixels), size, 3) for pixels in images]
    return torch.from_numpy(np.stack(found))


def pictures(count: int, *shape: int) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)]


@pytest.fixture
def faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Write aligned images below `tmp_path`, and return them as decoded from their JPEGs."""
    formats.accept_any_checksum(monkeypatch)
    formats.write_celeba(tmp_path, pictures(len(PARTS), 218, 178, 3), PARTS)
    folder = tmp_path / "celeba" / "img_align_celeba"
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def test_celeba_trains_on_its_training_part_and_holds_out_its_test_part(
    tmp_path: Path, faces: list[np.ndarray]
):
    dataset = celeba(root=str(tmp_path), download=False, workers=0)
    assert isinstance(dataset, TensorDataset)
    assert dataset.name == "celeba"
    assert dataset.labels is None
    assert dataset.flip
    assert torch.equal(dataset.train, squares(faces[:12], 64))
    assert rows(dataset.held_out) == rows(squares(faces[17:], 64))


def test_celeba_is_cut_to_its_middle(tmp_path: Path, faces: list[np.ndarray]):
    dataset = celeba(root=str(tmp_path), download=False, size=178, workers=0)
    assert np.array_equal(
        dataset.training_sample(torch.tensor([4]))[0].permute(1, 2, 0), faces[4][20:198]
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_celeba_streamed_is_celeba_in_memory(tmp_path: Path, faces: list[np.ndarray], workers: int):
    kept, streamed = (
        celeba(root=str(tmp_path), download=False, size=16, in_memory=in_memory, workers=workers)
        for in_memory in (True, False)
    )
    assert isinstance(streamed, StreamedDataset)
    one, other = (dataset.feed(5, 1, CPU) for dataset in (kept, streamed))
    assert all(torch.equal(one.batch(u).samples, other.batch(u).samples) for u in range(7))


def test_a_missing_celeba_image_counts_as_unreadable(
    tmp_path: Path, faces: list[np.ndarray], caplog: pytest.LogCaptureFixture
):
    (tmp_path / "celeba" / "img_align_celeba" / "000003.jpg").unlink()
    dataset = celeba(root=str(tmp_path), download=False, size=32, workers=0)
    chosen = [*faces[:2], faces[3], *faces[3:12]]
    assert torch.equal(dataset.training_sample(torch.arange(12)), squares(chosen, 32))
    assert "000003.jpg cannot be read (No such file or directory)" in caplog.text


def test_missing_celeba_is_answered_with_the_path_and_what_to_do(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        celeba(root=str(tmp_path / "nothing"), download=False)
    assert str(tmp_path / "nothing") in str(caught.value)
    assert "dataset.download=true" in str(caught.value)


@pytest.fixture
def towers(tmp_path: Path) -> list[np.ndarray]:
    """12 + 9 photographs of towers under `tmp_path`; keys do not come in the order of writing."""
    images = pictures(21, 30, 40, 3)
    keys = [f"{(number * 8) % 21:040x}" for number in range(21)]
    for part, some in (("train", slice(0, 12)), ("val", slice(12, 21))):
        files = dict(zip(keys[some], map(formats.encoded, images[some]), strict=True))
        formats.write_lsun(tmp_path / f"tower_{part}_lmdb", files)
    order = sorted(range(12), key=lambda number: keys[number])
    return [images[number] for number in order] + images[12:]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_lsun_is_read_in_the_order_of_its_keys(
    tmp_path: Path, towers: list[np.ndarray], workers: int, in_memory: bool
):
    dataset = lsun(
        root=str(tmp_path), category="tower", size=16, in_memory=in_memory, workers=workers
    )
    assert isinstance(dataset, TensorDataset if in_memory else StreamedDataset)
    assert dataset.labels is None
    expected = squares(towers[:12], 16)
    assert torch.equal(dataset.training_sample(torch.arange(12)), expected)
    assert rows(dataset.held_out) == rows(squares(towers[12:], 16))
    reference = TensorDataset("towers", expected, dataset.held_out).feed(5, 2, CPU)
    feed = dataset.feed(5, 2, CPU)
    assert all(torch.equal(feed.batch(u).samples, reference.batch(u).samples) for u in range(7))


def test_a_database_is_opened_again_in_another_process(tmp_path: Path, towers: list[np.ndarray]):
    database = Database(tmp_path / "tower_train_lmdb")
    sent = pickle.loads(pickle.dumps(database))
    assert len(sent) == 12
    assert sent.name(3) == database.name(3)
    del database
    assert np.array_equal(np.asarray(sent.open(3)), towers[3])


def test_reading_lsun_leaves_nothing_in_the_current_folder(
    tmp_path: Path, here: Path, towers: list[np.ndarray]
):
    before = sorted(here.iterdir())
    lsun(root=str(tmp_path), category="tower", size=16, workers=0)
    assert sorted(here.iterdir()) == before


def test_missing_and_damaged_lsun_are_answered(tmp_path: Path, towers: list[np.ndarray]):
    with pytest.raises(DataError, match=r"bedroom_train_lmdb.*dataset\.root="):
        lsun(root=str(tmp_path))
    (tmp_path / "tower_val_lmdb" / "data.mdb").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"tower_val_lmdb is not an LMDB database"):
        lsun(root=str(tmp_path), category="tower")


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_database_is_answered(tmp_path: Path, towers: list[np.ndarray], kept: float):
    file = tmp_path / "tower_train_lmdb" / "data.mdb"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match=rf"data\.mdb is truncated: .* of {len(whole)} bytes"):
        lsun(root=str(tmp_path), category="tower", workers=0)


def overwritten_pages(file: Path) -> None:
    """Truncate the database after its first two pages, which describe it."""
    with file.open("r+b") as pages:
        pages.seek(2 * PAGE)
        pages.write(b"\xff" * (file.stat().st_size - 2 * PAGE))


def test_a_database_whose_keys_are_damaged_is_answered(tmp_path: Path, towers: list[np.ndarray]):
    overwritten_pages(tmp_path / "tower_train_lmdb" / "data.mdb")
    with pytest.raises(DataError, match=r"tower_train_lmdb is not an LMDB database, or is damaged"):
        lsun(root=str(tmp_path), category="tower", workers=0)


def test_a_record_damaged_later_is_an_image_that_cannot_be_read(
    tmp_path: Path, towers: list[np.ndarray]
):
    database = Database(tmp_path / "tower_train_lmdb")
    part = ImagePart(database, np.arange(12), 16, 3, Faults("lsun", 12, 0))
    overwritten_pages(tmp_path / "tower_train_lmdb" / "data.mdb")
    images, faults, whole = part[[4]]
    assert not whole
    assert len(images) == 0
    ((name, reason),) = faults
    assert name == database.name(4)
    assert "CORRUPTED" in reason


def test_a_record_of_another_format_is_an_image_that_cannot_be_read(tmp_path: Path):
    files = {str(key): b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n" for key in range(2)}
    formats.write_lsun(tmp_path / "db", files)
    with pytest.raises(UnidentifiedImageError):
        Database(tmp_path / "db").open(1)


def test_without_lmdb_the_answer_is_what_to_install(
    tmp_path: Path, towers: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(DataError, match=r'pip install "wgan-train\[lsun\]"'):
        lsun(root=str(tmp_path), category="tower")
