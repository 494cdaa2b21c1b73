"""Data sets: their settings by target, and what is known of them before anything is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from wgan_cli.schema.optimizers import MOST_LR
from wgan_cli.schema.settings import setting


@dataclass
class Recommended:
    """What a data set recommends; null where it recommends nothing."""

    steps: int | None = setting(default=None, at_least=1, at_most=1_000_000_000)
    clip: float | None = setting(default=None, above=0, at_most=1_000_000)
    lr: dict[str, float] = setting(default={}, above=0, at_most=MOST_LR)  # by the optimizer's name
    latent_dim: int | None = setting(default=None, at_least=1, at_most=1_000_000)
    n_critic: int | None = setting(default=None, at_least=1, at_most=1_000_000)
    decay: str | None = setting(default=None, choices=("none", "linear", "cosine"))
    ema: float | None = setting(default=None, at_least=0, below=1)


@dataclass
class DatasetConfig:
    """What every data set has."""

    _target_: str = MISSING
    name: str = MISSING
    recommended: Recommended = dataclasses.field(default_factory=Recommended)


@dataclass
class TorchvisionDatasetConfig(DatasetConfig):
    """A data set that torchvision reads from, or downloads to, a folder."""

    root: str = MISSING
    download: bool = MISSING


@dataclass
class FlippableDatasetConfig(TorchvisionDatasetConfig):
    """One whose images are still themselves in a mirror."""

    flip: bool = MISSING  # mirror half of the training images


@dataclass
class EmnistConfig(TorchvisionDatasetConfig):
    """EMNIST in one of its splits."""

    split: str = setting(choices=("balanced", "byclass", "bymerge", "digits", "letters", "mnist"))


@dataclass
class SvhnConfig(TorchvisionDatasetConfig):
    """Street View House Numbers."""

    extra: bool = MISSING


@dataclass
class Stl10Config(FlippableDatasetConfig):
    """STL-10."""

    size: int = setting(at_least=4, at_most=96)
    unlabeled: bool = MISSING


@dataclass
class ArrayConfig(DatasetConfig):
    """A file of numpy arrays."""

    path: str = MISSING
    key: str | None = MISSING


@dataclass
class ImageFilesConfig(DatasetConfig):
    """Images read from files, into memory or while training."""

    root: str = MISSING
    size: int = setting(at_least=4, at_most=1024)
    flip: bool = MISSING  # mirror half of the training images
    in_memory: bool | None = MISSING
    workers: int | None = setting(at_least=0, at_most=256)
    corrupt_limit: float = setting(at_least=0, at_most=1)  # a share of all images


@dataclass
class ImageFolderConfig(ImageFilesConfig):
    """A user's own images."""

    channels: int = setting(choices=(1, 3))  # grey or colour


@dataclass
class CelebAConfig(ImageFilesConfig):
    """CelebA's aligned faces."""

    download: bool = MISSING


@dataclass
class LsunConfig(ImageFilesConfig):
    """One kind of LSUN's scenes."""

    category: str = setting(
        choices=(
            *("bedroom", "bridge", "church_outdoor", "classroom", "conference_room"),
            *("dining_room", "kitchen", "living_room", "restaurant", "tower"),
        )
    )


@dataclass
class SwissRollConfig(DatasetConfig):
    """A spiral in the plane."""

    noise: float = setting(at_least=0, at_most=1_000_000)


@dataclass
class GaussiansRingConfig(DatasetConfig):
    """Gaussians on a circle in the plane."""

    modes: int = setting(at_least=1, at_most=10_000)
    radius: float = setting(above=0, at_most=1_000_000)
    std: float = setting(above=0, at_most=1_000_000)


@dataclass
class GaussiansGridConfig(DatasetConfig):
    """Gaussians on a square grid in the plane."""

    side: int = setting(at_least=1, at_most=100)
    spacing: float = setting(above=0, at_most=1_000_000)
    std: float = setting(above=0, at_most=1_000_000)


DATASETS: dict[str, type] = {
    "wgan_cli.data.images.digits": DatasetConfig,
    "wgan_cli.data.images.torchvision_images": TorchvisionDatasetConfig,
    "wgan_cli.data.images.flippable_images": FlippableDatasetConfig,
    "wgan_cli.data.images.emnist": EmnistConfig,
    "wgan_cli.data.images.svhn": SvhnConfig,
    "wgan_cli.data.images.stl10": Stl10Config,
    "wgan_cli.data.stacked.stacked_mnist": TorchvisionDatasetConfig,
    "wgan_cli.data.arrays.array": ArrayConfig,
    "wgan_cli.data.folders.image_folder": ImageFolderConfig,
    "wgan_cli.data.celeba.celeba": CelebAConfig,
    "wgan_cli.data.lsun.lsun": LsunConfig,
    "wgan_cli.data.synthetic.swiss_roll": SwissRollConfig,
    "wgan_cli.data.synthetic.gaussians_ring": GaussiansRingConfig,
    "wgan_cli.data.synthetic.gaussians_grid": GaussiansGridConfig,
    "wgan_cli.data.synthetic.parallel_lines": DatasetConfig,
}

# What the samples have, for the metrics that need it; left out where only the files tell.
_IMAGES = frozenset({"samples", "images", "labels"})
DATA_KINDS = {
    "wgan_cli.data.images.digits": _IMAGES,
    "wgan_cli.data.images.torchvision_images": _IMAGES,
    "wgan_cli.data.images.flippable_images": _IMAGES,
    "wgan_cli.data.images.emnist": _IMAGES,
    "wgan_cli.data.images.svhn": _IMAGES,
    "wgan_cli.data.stacked.stacked_mnist": _IMAGES,
    "wgan_cli.data.celeba.celeba": frozenset({"samples", "images"}),
    "wgan_cli.data.lsun.lsun": frozenset({"samples", "images"}),
    "wgan_cli.data.synthetic.swiss_roll": frozenset({"samples"}),
    "wgan_cli.data.synthetic.gaussians_ring": frozenset({"samples", "modes"}),
    "wgan_cli.data.synthetic.gaussians_grid": frozenset({"samples", "modes"}),
    "wgan_cli.data.synthetic.parallel_lines": frozenset({"samples"}),
}

# Training parts whose size is a fact known before anything is read, by name.
TRAINING_SIZES = {
    "digits": 1438,
    "mnist": 60_000,
    "fashion_mnist": 60_000,
    "kmnist": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "stacked_mnist": 128_000,
    "celeba": 162_770,
}

# The same of held-out parts.
HELD_OUT_SIZES = {
    "digits": 359,
    **dict.fromkeys(("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100", "celeba"), 10_000),
    "stacked_mnist": 26_000,
    **dict.fromkeys(("swiss_roll", "gaussians_ring", "gaussians_grid", "parallel_lines"), 4096),
}

# The side of square images that have no setting `size`.
_SIDES = {
    "digits": 8,
    **dict.fromkeys(("mnist", "fashion_mnist", "kmnist", "emnist", "stacked_mnist"), 28),
    **dict.fromkeys(("cifar10", "cifar100", "svhn"), 32),
}


def known_side(node: Mapping[str, Any]) -> int | None:
    """The side of a data set's images, 0 for points of the plane; None where files tell."""
    if node["_target_"] not in DATASETS:
        return None
    if node["_target_"].startswith("wgan_cli.data.synthetic."):
        return 0
    side: int | None = node.get("size", _SIDES.get(node["name"]))
    return side
