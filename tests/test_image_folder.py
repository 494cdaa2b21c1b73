"""Folders of images: which are found, how they are decoded, their part and class, and errors."""

from __future__ import annotations

import logging
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wgan_cli.data.dataset import TensorDataset, split
from wgan_cli.data.encoded import to_square
from wgan_cli.data.folders import image_folder
from wgan_cli.errors import ConfigError, DataError

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, value: int, size: int = 4) -> None:
    """An image filled with one value, which identifies it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size, size), value).save(path)


def many(root: Path, count: int = 50, first: int = 0) -> None:
    for value in range(first, first + count):
        write(root / f"{value:03d}.png", value)


def read(root: Path, **settings: Any) -> TensorDataset:
    words = {"size": 4, "channels": 1, "in_memory": True, "workers": 0, **settings}
    dataset = image_folder(root=str(root), **words)
    assert isinstance(dataset, TensorDataset)
    return dataset


def values(images: torch.Tensor) -> list[int]:
    assert images.dtype == torch.uint8
    return images[:, 0, 0, 0].tolist()


def every(dataset: TensorDataset) -> list[int]:
    return sorted(values(dataset.train) + values(dataset.held_out))


def test_all_images_at_any_depth_are_found_and_nothing_else(tmp_path: Path):
    many(tmp_path / "root", 44)
    other = tmp_path / "elsewhere"
    names = [
        "a/b/c/deep.PNG",
        "a/x.Gif",
        "b.c/d.e.BMP",
        "z.tiff",
        "z.TIF",
        "y.pgm",
        "with space.ppm",
    ]
    for value, name in enumerate(names, 100):
        write(tmp_path / "root" / name, value)
    write(other / "linked.png", 120)
    (tmp_path / "root" / "link").symlink_to(other)
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path / "root")
    for name in (".hidden.png", ".git/object.png", "a/._x.png"):
        write(tmp_path / "root" / name, 200)
    (tmp_path / "root" / "notes.txt").write_text("not an image")
    (tmp_path / "root" / "folder.png").mkdir()
    # Opening it would wait for a writer.
    os.mkfifo(tmp_path / "root" / "pipe.png")
    dataset = read(tmp_path / "root")
    assert every(dataset) == [*range(44), *range(100, 107), 120]
    assert dataset.name == "image_folder"
    assert dataset.labels is None


@pytest.mark.parametrize(
    "ending", ["png", "bmp", "tif", "tiff", "ppm", "PNG", "webp", "gif", "jpg", "JPEG", "Jpg"]
)
def test_every_format_is_read(ending: str, tmp_path: Path):
    # Three flat stripes survive the palette and the lossy formats.
    pixels = np.zeros((16, 24, 3), dtype=np.uint8)
    for stripe, colour in enumerate([(200, 20, 60), (10, 220, 30), (0, 40, 250)]):
        pixels[:, 8 * stripe : 8 * stripe + 8] = colour
    file = tmp_path / f"image.{ending}"
    lossless = {"lossless": True} if ending == "webp" else {"quality": 100, "subsampling": 0}
    Image.fromarray(pixels).save(file, **lossless)
    with Image.open(file) as image:
        found = to_square(image, 16, 3)
    assert found.shape == (3, 16, 16)
    assert found.dtype == np.uint8
    error = np.abs(found.transpose(1, 2, 0).astype(int) - pixels[:, 4:20]).max()
    assert error <= (6 if ending.lower() in ("jpg", "jpeg") else 0)


def test_images_of_the_size_keep_their_pixels():
    grey, colour = noise(12, 12), noise(12, 12, 3)
    assert np.array_equal(to_square(Image.fromarray(grey), 12, 1)[0], grey)
    assert np.array_equal(to_square(Image.fromarray(colour), 12, 3), colour.transpose(2, 0, 1))
    wide = noise(12, 31, 3)
    middle = wide[:, 9:21].transpose(2, 0, 1)
    assert np.array_equal(to_square(Image.fromarray(wide), 12, 3), middle)
    tall = noise(30, 12)
    assert np.array_equal(to_square(Image.fromarray(tall), 12, 1)[0], tall[9:21])


def lanczos(count: int, size: int) -> np.ndarray:
    """The matrix (size, count) of antialiased Lanczos resampling with three lobes."""
    scale = max(count / size, 1.0)
    centres = (np.arange(size) + 0.5) * count / size
    x = (np.arange(count) + 0.5 - centres[:, None]) / scale
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (37, 90), (64, 41), (9, 11), (5, 400)])
def test_other_sizes_are_cut_to_the_middle_square_and_resampled(height: int, width: int):
    pixels = noise(height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side].astype(float)
    matrix = lanczos(side, 16)
    # PIL goes along the rows first, and rounds to bytes between the two directions.
    expected = (matrix @ (square @ matrix.T).clip(0, 255)).clip(0, 255)
    found = to_square(Image.fromarray(pixels), 16, 1)[0]
    assert np.abs(found - expected).max() <= 2


def test_palettes_and_greys_become_colours():
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 120, 240])
    assert to_square(palette, 8, 3)[:, 3, 3].tolist() == [10, 120, 240]
    assert to_square(Image.new("L", (8, 8), 77), 8, 3)[:, 3, 3].tolist() == [77, 77, 77]
    assert to_square(Image.new("1", (8, 8), 1), 8, 3).min() == 255
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert to_square(ink, 8, 3)[:, 3, 3].tolist() == [255, 0, 0]


def test_colours_become_their_luma():
    pixels = noise(8, 8, 3)
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(to_square(Image.fromarray(pixels), 8, 1)[0] - luma).max() <= 1
    ink = Image.fromarray(pixels).convert("CMYK")
    assert np.abs(to_square(ink, 8, 1)[0] - luma).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_become_white(channels: int):
    pixels = np.full((8, 8, 4), 40, dtype=np.uint8)
    pixels[:, :4, 3], pixels[:, 4:, 3] = 0, 255
    pixels[0, 0, 3] = 128
    found = to_square(Image.fromarray(pixels, "RGBA"), 8, channels)
    assert (found[:, 1:, :4] == 255).all()
    assert (found[:, :, 4:] == 40).all()
    assert np.abs(found[:, 0, 0].astype(int) - (128 * 40 + 127 * 255) // 255).max() <= 1
    grey = Image.fromarray(pixels[..., [0, 3]], "LA")
    assert np.array_equal(to_square(grey, 8, channels), found)


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_colour_becomes_white(mode: str, tmp_path: Path):
    image = Image.new(mode, (8, 8), 0)
    image.paste(1 if mode == "P" else "white", (0, 0, 4, 8))
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 100, 50])
    transparent: Any = (0, 0, 0) if mode == "RGB" else 0
    image.save(tmp_path / "image.png", transparency=transparent)
    with Image.open(tmp_path / "image.png") as image:
        found = to_square(image, 8, 3)
    assert (found[:, :, 4:] == 255).all()
    assert found[:, 0, 0].tolist() == ([200, 100, 50] if mode == "P" else [255, 255, 255])


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bits_become_8(ending: str, tmp_path: Path):
    values = RNG.integers(0, 65536, (8, 8)).astype(np.uint16)
    values[0, :3] = 0, 32767, 65535
    file = tmp_path / f"image.{ending}"
    if ending == "pgm":
        file.write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(file)
    with Image.open(file) as image:
        assert np.array_equal(to_square(image, 8, 1)[0], np.rint(values * (255 / 65535)))


@pytest.mark.parametrize(("most", "expected"), [(255, 1), (256, 257), (65535, 257)])
def test_integers_of_32_bits_are_read_as_8_or_16_bits(most: int, expected: int, tmp_path: Path):
    numbers = RNG.integers(0, most, (8, 10)).astype(np.int32)
    # The maximum is taken over the whole file, not only over its middle.
    numbers[0, 0] = most
    Image.fromarray(numbers).save(tmp_path / "image.tif")
    with Image.open(tmp_path / "image.tif") as image:
        assert image.mode == "I"
        assert np.array_equal(to_square(image, 8, 1)[0], np.rint(numbers[:, 1:9] / expected))


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF"])
def test_a_dark_picture_of_16_bits_stays_dark(kind: str):
    # PIL before 11 opens PNGs of 16 bits in this mode, and PGMs still.
    image = Image.fromarray(np.full((8, 8), 200, dtype=np.int32))
    image.format = kind
    assert (to_square(image, 8, 1) == (200 if kind == "TIFF" else 1)).all()


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_16_bits_are_refused(value: int):
    with pytest.raises(ValueError, match="beyond 16 bits"):
        to_square(Image.fromarray(np.full((8, 8), value, dtype=np.int32)), 8, 1)


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA"])
def test_other_kinds_of_transparency_become_white_too(mode: str):
    plain = {"La": "LA", "RGBa": "RGBA", "PA": "PA"}[mode]
    image = Image.new("RGBA", (8, 8), (80, 80, 80, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    found = to_square(image.convert(plain).convert(mode), 8, 3)
    assert (found[:, :, :4] == 255).all()
    assert (found[:, :, 4:] == 80).all()


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path):
    upright = noise(10, 8)
    turned = {3: np.rot90(upright, 2), 6: np.rot90(upright), 8: np.rot90(upright, -1)}
    turned |= {2: upright[:, ::-1], 1: upright}
    for orientation, pixels in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "image.png", exif=exif)
        with Image.open(tmp_path / "image.png") as image:
            assert np.array_equal(to_square(image, 8, 1)[0], upright[1:9])


def test_an_animation_gives_its_first_frame(tmp_path: Path):
    frames = [Image.new("L", (8, 8), value) for value in (30, 90)]
    frames[0].save(tmp_path / "image.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "image.gif") as image:
        assert (to_square(image, 8, 1) == 30).all()


def test_a_fixed_fifth_is_held_out(tmp_path: Path):
    many(tmp_path, 50)
    dataset = read(tmp_path)
    assert (len(dataset.train), len(dataset.held_out)) == (40, 10)
    assert every(dataset) == list(range(50))
    numbers = split(torch.arange(50.0)[:, None], "numbers")
    assert sorted(values(dataset.held_out)) == sorted(numbers.held_out.flatten().tolist())
    assert torch.equal(read(tmp_path).held_out, dataset.held_out)
    assert values(dataset.held_out) != sorted(values(dataset.held_out))


def test_the_held_out_part_has_a_maximum_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wgan_cli.data.folders.MAX_HELD_OUT", 9)
    monkeypatch.setattr("wgan_cli.data.streaming.MAX_HELD_OUT", 9)
    many(tmp_path / "a")
    dataset = read(tmp_path / "a")
    assert (len(dataset.train), len(dataset.held_out)) == (41, 9)
    many(tmp_path / "b" / "train", 20)
    many(tmp_path / "b" / "test", 30, 100)
    held_out = values(read(tmp_path / "b").held_out)
    assert len(set(held_out)) == 9
    assert min(held_out) >= 100
    assert max(held_out) > 110


@pytest.mark.parametrize("held_out", ["test", "val", "valid", "validation"])
def test_a_training_and_a_held_out_folder_are_the_parts(held_out: str, tmp_path: Path):
    many(tmp_path / "train", 20)
    many(tmp_path / held_out, 10, 100)
    many(tmp_path / "extra", 10, 200)
    write(tmp_path / "cover.png", 250)
    dataset = read(tmp_path)
    assert values(dataset.train) == list(range(20))
    assert sorted(values(dataset.held_out)) == list(range(100, 110))
    assert dataset.labels is None


def test_a_training_folder_alone_is_like_any_other(tmp_path: Path):
    many(tmp_path / "train", 50)
    assert len(read(tmp_path).train) == 40


def test_folders_in_a_lone_training_folder_are_no_classes_and_this_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    in_classes(tmp_path / "train", "cat", "dog")
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path).labels is None
    assert f"dataset.root={tmp_path / 'train'}" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path / "train").labels is not None
    assert not caplog.text


def in_classes(root: Path, *names: str, each: int = 30) -> None:
    for number, name in enumerate(names):
        many(root / name, each, number * each)


def test_folders_are_classes(tmp_path: Path):
    # Sorted by name, as torchvision has them; as paths, a-b/ would come before a/.
    in_classes(tmp_path, "a", "a-b", "b/deeper")
    dataset = read(tmp_path)
    assert dataset.labels is not None
    assert dataset.labels.train.tolist() == [v // 30 for v in values(dataset.train)]
    assert dataset.labels.held_out.tolist() == [v // 30 for v in values(dataset.held_out)]
    assert set(dataset.labels.train.tolist()) == {0, 1, 2}


def test_classes_of_two_parts(tmp_path: Path):
    in_classes(tmp_path / "train", "cat", "dog", "owl")
    many(tmp_path / "test" / "dog", 9, 100)
    dataset = read(tmp_path)
    assert dataset.labels is not None
    assert dataset.labels.train.tolist() == [0] * 30 + [1] * 30 + [2] * 30
    assert dataset.labels.held_out.tolist() == [1] * 9


def test_a_class_only_in_the_held_out_part_means_no_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    in_classes(tmp_path / "train", "cat", "dog")
    in_classes(tmp_path / "test", "cat", "emu")
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path).labels is None
    assert "emu" in caplog.text


def test_one_folder_or_an_image_beside_the_folders_means_no_classes(tmp_path: Path):
    in_classes(tmp_path / "one", "cat", each=50)
    assert read(tmp_path / "one").labels is None
    in_classes(tmp_path / "two", "cat", "dog")
    write(tmp_path / "two" / "beside.png", 99)
    assert read(tmp_path / "two").labels is None


@pytest.mark.parametrize("names", [("train", "holdout"), ("cat", "Val"), ("test", "validation")])
def test_folders_named_as_parts_are_no_classes(names: tuple[str, str], tmp_path: Path):
    in_classes(tmp_path, *names)
    with pytest.raises(DataError, match=r"would be classes.* train and test") as caught:
        read(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert ("cat" in str(caught.value)) is False


def test_inside_the_parts_any_name_is_a_class(tmp_path: Path):
    in_classes(tmp_path / "train", "bus", "train")
    in_classes(tmp_path / "test", "bus", "train")
    assert read(tmp_path).labels is not None


@pytest.mark.parametrize(
    ("folders", "line"),
    [
        (["a", "b"], "88 training and 12 held-out images of 2 classes (all folders, split at"),
        (["train"], "40 training and 10 held-out images without classes (all folders, split at"),
        (
            ["train/a", "train/b", "train/c", "valid/b"],
            "150 training and 12 held-out images of 3 classes (train and valid)",
        ),
    ],
)
def test_the_numbers_of_images_and_classes_are_logged(
    folders: list[str],
    line: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("wgan_cli.data.folders.MAX_HELD_OUT", 12)
    monkeypatch.setattr("wgan_cli.data.streaming.MAX_HELD_OUT", 12)
    in_classes(tmp_path, *folders, each=50)
    with caplog.at_level(logging.INFO, logger="wgan_cli"):
        read(tmp_path)
    assert f"image_folder: {line}" in caplog.text


def test_flip_is_passed_on(tmp_path: Path):
    many(tmp_path)
    assert read(tmp_path, flip=True).flip
    assert not read(tmp_path).flip


def test_a_missing_folder_is_answered_with_the_path_and_what_to_type(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        read(tmp_path / "nothing")
    assert str(tmp_path / "nothing") in str(caught.value)
    assert "dataset.root=" in str(caught.value)
    write(tmp_path / "file.png", 1)
    with pytest.raises(DataError, match="is a file"):
        read(tmp_path / "file.png")


def test_a_folder_without_images_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DataError, match=r"holds no image.*\.jpg"):
        read(tmp_path)


@pytest.mark.parametrize("in_memory", [True, False])
def test_too_few_images_are_refused(in_memory: bool, tmp_path: Path):
    many(tmp_path, 39)
    with pytest.raises(DataError, match=r"held-out part has 7 samples; it needs 8"):
        image_folder(root=str(tmp_path), in_memory=in_memory, workers=0)


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_that_are_all_equal_are_refused(in_memory: bool, tmp_path: Path):
    for number in range(50):
        write(tmp_path / f"{number}.png", 7)
    with pytest.raises(DataError, match=r"held-out part are equal|training part are equal"):
        image_folder(root=str(tmp_path), in_memory=in_memory, workers=0)


def test_two_channels_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"1 \(grey\) or 3 \(colour\), not 2"):
        image_folder(root=str(tmp_path), channels=2)


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))


def damage(path: Path, kind: str) -> None:
    if kind == "truncated":
        Image.fromarray(noise(64, 64, 3)).save(path.with_suffix(".jpg"), quality=95)
        whole = path.with_suffix(".jpg").read_bytes()
        path.with_suffix(".jpg").unlink()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "link":
        path.unlink()
        path.symlink_to("nowhere.png")
    elif kind == "floats":
        Image.new("F", (8, 8), 0.5).save(path, format="tiff")
    else:
        path.write_bytes({"empty": b"", "text": b"no image at all", "bomb": bomb()}[kind])


KINDS = {
    "truncated": "truncated",
    "link": "No such file",
    "floats": "floats",
    "empty": "not an image",
    "text": "not an image",
    "bomb": "decompression bomb",
}


def substituted(count: int, broken: set[int]) -> list[int]:
    """Return, for each position, the image that is read there: itself or its substitute."""
    found = []
    for place in range(count):
        while place % count in broken:
            place += 1
        found.append(place % count)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_image_is_named_and_the_next_takes_its_place(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    many(tmp_path / "train", 20)
    many(tmp_path / "test", 10, 100)
    damage(tmp_path / "train" / "019.png", kind)
    with caplog.at_level(logging.WARNING):
        dataset = read(tmp_path)
    assert values(dataset.train) == substituted(20, {19})
    assert values(dataset.train)[-1] == 0
    assert str(tmp_path / "train" / "019.png") in caplog.text
    assert KINDS[kind] in caplog.text
    assert len(caplog.records) == 1


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_a_link_to_itself_is_an_unreadable_image(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    many(tmp_path)
    (tmp_path / "itself.png").symlink_to("itself.png")
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert "itself.png cannot be read" in caplog.text


def test_a_file_of_another_format_is_never_opened_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    from PIL import EpsImagePlugin

    opened: list[str] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: opened.append("gs"))
    many(tmp_path / "train", 20)
    many(tmp_path / "test", 10, 100)
    (tmp_path / "train" / "019.png").rename(tmp_path / "train" / "019.jpg")
    (tmp_path / "train" / "018.png").write_bytes(POSTSCRIPT)
    # A wrong ending of a known format does not matter.
    assert values(read(tmp_path).train) == [*range(18), 19, 19]
    assert "018.png cannot be read (not an image)" in caplog.text
    assert opened == []


def test_a_file_without_read_permission_counts_as_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    many(tmp_path / "train", 20)
    many(tmp_path / "test", 10, 100)
    opening = Image.open

    def forbidding(path: Path, **settings: Any) -> Image.Image:
        if path.name == "105.png":
            raise PermissionError(13, "Permission denied", str(path))
        return opening(path, **settings)

    monkeypatch.setattr(Image, "open", forbidding)
    held_out = values(read(tmp_path).held_out)
    assert sorted(held_out) == [100, 101, 102, 103, 104, 106, 106, 107, 108, 109]
    assert "105.png cannot be read (Permission denied)" in caplog.text


def test_many_damaged_images_are_counted_and_several_in_a_row_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    many(tmp_path / "train", 40)
    many(tmp_path / "test", 10, 100)
    broken = {3, 4, 5, 6, 20, 30, 31, 38, 39}
    for value in broken:
        damage(tmp_path / "train" / f"{value:03d}.png", "text")
    dataset = read(tmp_path, corrupt_limit=0.2)
    assert values(dataset.train) == substituted(40, broken)
    named = [
        record for record in caplog.records if "another image takes its place" in record.message
    ]
    assert len(named) == 5
    assert "8 images that cannot be read so far" in caplog.text


def test_an_image_is_replaced_by_one_of_its_class(tmp_path: Path):
    in_classes(tmp_path / "train", "cat", "dog", each=20)
    many(tmp_path / "test" / "cat", 10, 100)
    damage(tmp_path / "train" / "cat" / "019.png", "empty")
    dataset = read(tmp_path)
    assert values(dataset.train) == [*range(19), 0, *range(20, 40)]
    assert dataset.labels is not None
    assert dataset.labels.train.tolist() == [0] * 20 + [1] * 20


def test_more_damaged_images_than_allowed_are_an_error(tmp_path: Path):
    many(tmp_path / "train", 100)
    many(tmp_path / "test", 100, 100)
    for value in (4, 50, 99):
        damage(tmp_path / "train" / f"{value:03d}.png", "empty")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert "more than 2 of 200 images" in message
    assert "dataset.corrupt_limit=0.01" in message
    assert str(tmp_path / "train" / "004.png") in message
    assert len(read(tmp_path, corrupt_limit=0.015).train) == 100


def test_one_damaged_image_is_allowed_unless_none_is(tmp_path: Path):
    many(tmp_path)
    damage(tmp_path / "007.png", "empty")
    assert len(read(tmp_path).train) == 40
    with pytest.raises(DataError, match="more than 0 of 50 images"):
        read(tmp_path, corrupt_limit=0.0)


def test_a_class_of_only_damaged_images_is_an_error(tmp_path: Path):
    in_classes(tmp_path / "train", "cat", "dog", each=10)
    many(tmp_path / "test" / "cat", 10, 100)
    for path in (tmp_path / "train" / "dog").iterdir():
        damage(path, "text")
    with pytest.raises(DataError, match=r"dog.* cannot be read .* no other image of its class"):
        read(tmp_path, corrupt_limit=1.0)


def test_a_name_in_another_encoding_is_read_and_can_be_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    many(tmp_path / "train", 20)
    many(tmp_path / "test", 10, 100)
    strange = os.fsencode(tmp_path / "train") + b"/\xff\xfe.png"
    (tmp_path / "train" / "019.png").rename(os.fsdecode(strange))
    assert sorted(values(read(tmp_path).train)) == list(range(20))
    Path(os.fsdecode(strange)).write_bytes(b"")
    read(tmp_path)
    assert caplog.text.encode()
