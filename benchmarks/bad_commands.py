"""Invalid commands and their expected answers, which `benchmarks.refusals` runs as processes.

tests/test_bad_commands.py runs the same table in one process.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.bad_words import BAD_WORDS

# Maps a path to the file's content, or to None for a folder.
Files = Mapping[str, bytes | None]


class BadCommand(NamedTuple):
    """The overrides, the exit code, required parts of the answer, and the files to create first."""

    words: list[str]
    code: int
    says: list[str]
    files: Files = MappingProxyType({})


def _png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _photographs(*folders: str, count: int = 50) -> Files:
    return {f"{folder}/{n}.png": _png(n) for folder in folders for n in range(count)}


_POINTS = np.random.default_rng(0).standard_normal((50, 2))
_OWN = b"""
from torch import nn


class Generator(nn.Module):
    def __init__(self, latent_dim, sample_shape):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent_dim, 192), nn.Unflatten(1, (3, 8, 8)))

    def forward(self, latent):
        return self.layers(latent)


class Critic(nn.Module):
    def __init__(self, sample_shape):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 1, 8), nn.Flatten(0))

    def forward(self, samples):
        return self.layers(samples)
"""
_OWN_MODEL = b"""# For colour images of 8x8
name: colour
generator: {_target_: own_colour.Generator}
critic: {_target_: own_colour.Critic}
"""
_RUN = {"run/config.yaml": b"seed: 0\n"}
_IMAGES = ["dataset=image_folder", "dataset.root=photographs", "dataset.size=16"]
_ARRAY = ["dataset=array", "dataset.path=mine.npz"]

BAD_COMMANDS: dict[str, BadCommand] = {
    **{what: BadCommand(words, 2, says) for what, (words, says) in BAD_WORDS.items()},
    "a device that is not there": BadCommand(["device=cuda:99"], 2, ["device=cuda:99", "CUDA"]),
    "grey data, a colour generator": BadCommand(
        ["--config-dir", "mine", "model=colour"],
        2,
        ["model.generator", "(2, 3, 8, 8)", "(2, 1, 8, 8)"],
        {"own_colour.py": _OWN, "mine/model/colour.yaml": _OWN_MODEL},
    ),
    "grey data, a colour critic": BadCommand(
        ["model.critic._target_=own_colour.Critic", "~model.critic.width", "~model.critic.depth"],
        2,
        ["model.critic", "(2, 1, 8, 8)"],
        {"own_colour.py": _OWN},
    ),
    "an own option that is no YAML": BadCommand(
        ["--config-dir", "mine", "experiment=thesis"],
        2,
        ["thesis.yaml"],
        {"mine/experiment/thesis.yaml": b"# @package _global_\nclip: [\n"},
    ),
    "a saved config that is no YAML": BadCommand(
        ["resume=run"], 2, ["run/config.yaml"], {"run/config.yaml": b"clip: ["}
    ),
    "classes of an array without": BadCommand(
        [*_ARRAY, "conditional=true", "batch_size=16"],
        2,
        ["conditional=true", "labels"],
        {"mine.npz": _npz(x=_POINTS)},
    ),
    "images, not there": BadCommand(_IMAGES, 3, ["{here}/photographs", "dataset.root"]),
    "images, a file": BadCommand(_IMAGES, 3, ["dataset.root", "is a file"], {"photographs": b""}),
    "images, none": BadCommand(
        _IMAGES, 3, ["{here}/photographs", "no image"], {"photographs/notes.txt": b"", "x": None}
    ),
    "images, too few": BadCommand(
        _IMAGES, 3, ["image_folder", "8 or more"], _photographs("photographs", count=9)
    ),
    "images, all damaged": BadCommand(
        _IMAGES,
        3,
        ["dataset.corrupt_limit", "photographs/"],
        {f"photographs/{n}.jpg": b"no image" for n in range(40)},
    ),
    "images, many cut short": BadCommand(
        _IMAGES,
        3,
        ["dataset.corrupt_limit=0.01", "photographs/"],
        {path: data and data[:200] for path, data in _photographs("photographs").items()},
    ),
    "images, parts as classes": BadCommand(
        _IMAGES,
        3,
        ["Test and Train", "train and test"],
        _photographs(*("photographs/Train", "photographs/Test")),
    ),
    "images, fewer than a batch": BadCommand(
        [*_IMAGES, "batch_size=64"], 3, ["batch_size=64", "40 samples"], _photographs("photographs")
    ),
    "array, not there": BadCommand(_ARRAY, 3, ["dataset.path=mine.npz", "no such file"]),
    "array, a folder": BadCommand(_ARRAY, 3, ["dataset.path=mine.npz"], {"mine.npz": None}),
    "array, damaged": BadCommand(
        _ARRAY, 3, ["dataset.path=mine.npz", "numpy.save"], {"mine.npz": _npz(x=_POINTS)[:-300]}
    ),
    "array, Python objects": BadCommand(
        _ARRAY,
        3,
        ["dataset.path=mine.npz", "without Python objects"],
        {"mine.npz": _npz(x=np.array([{}, []], dtype=object))},
    ),
    "array, unknown names": BadCommand(
        _ARRAY, 3, ["a, b", "dataset.key"], {"mine.npz": _npz(a=_POINTS, b=_POINTS)}
    ),
    "array, unknown key": BadCommand(
        [*_ARRAY, "dataset.key=y"], 3, ["dataset.key", "only x"], {"mine.npz": _npz(x=_POINTS)}
    ),
    "array, NaN": BadCommand(_ARRAY, 3, ["NaN"], {"mine.npz": _npz(x=_POINTS * np.nan)}),
    "array, all equal": BadCommand(_ARRAY, 3, ["equal"], {"mine.npz": _npz(x=_POINTS * 0)}),
    "array, whole numbers": BadCommand(
        _ARRAY, 3, ["int64 of shape (50, 2)", "uint8"], {"mine.npz": _npz(x=_POINTS.astype(int))}
    ),
    "MNIST, no folder": BadCommand(
        ["dataset=mnist", "dataset.download=false"], 3, ["{here}/data", "dataset.root"]
    ),
    "MNIST, nothing there": BadCommand(
        ["dataset=mnist", "dataset.download=false"],
        3,
        ["{here}/data", "dataset.root", "dataset.download=true"],
        {"data": None},
    ),
    "MNIST, a file": BadCommand(
        ["dataset=mnist"], 3, ["dataset.root=data", "folder"], {"data": b""}
    ),
    "MNIST, damaged": BadCommand(
        ["dataset=mnist", "dataset.download=false"],
        3,
        ["mnist", "{here}/data"],
        {
            f"data/MNIST/raw/{part}-{kind}-ubyte": b"\0\0\x08\x03 cut short"
            for part in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")
        },
    ),
    "LSUN, not there": BadCommand(["dataset=lsun"], 3, ["{here}/data", "LSUN"]),
    "resume, not there": BadCommand(["resume=nowhere"], 4, ["resume=nowhere"]),
    "resume, an empty folder": BadCommand(["resume=run"], 4, ["resume=run"], {"run": None}),
    "resume, no checkpoint": BadCommand(
        ["resume=notes.txt"], 4, ["resume=notes.txt"], {"notes.txt": b""}
    ),
    "resume, foreign code": BadCommand(
        ["resume=run"],
        4,
        ["os.system", "--trust"],
        {"run/config.yaml": b"model: {generator: {_target_: os.system}}"},
    ),
    "outputs, a file": BadCommand([], 7, ["outputs"], {"outputs": b"in the way"}),
    "outputs, a file, in a sweep": BadCommand(["-m", "seed=1,2"], 7, ["outputs"], {"outputs": b""}),
    "run folder, a file": BadCommand(["hydra.run.dir=run"], 7, ["run"], {"run": b""}),
    "run folder, below a file": BadCommand(["hydra.run.dir=run/a"], 7, ["run"], {"run": b""}),
    "run folder, on no disk": BadCommand(["hydra.run.dir=/proc/run"], 7, ["/proc/run"]),
    "run folder, taken": BadCommand(
        ["hydra.run.dir=run"], 8, ["run holds a run", "resume=run", "hydra.run.dir"], _RUN
    ),
}
