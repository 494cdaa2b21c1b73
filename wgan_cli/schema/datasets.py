"""The settings and traits of each data set, as known before its files are read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from omegaconf import MISSING

from wgan_cli.schema.optimizers import MOST_LR
from wgan_cli.schema.settings import setting
from wgan_cli.schema.traits import Component, DatasetTraits


@dataclass
class Recommended:
    """Settings that a data set recommends; null means no recommendation."""

    steps: int | None = setting(default=None, at_least=1, at_most=1_000_000_000)
    clip: float | None = setting(default=None, above=0, at_most=1_000_000)
    # Maps optimizer names to learning rates.
    lr: dict[str, float] = field(default_factory=dict, metadata={"above": 0, "at_most": MOST_LR})
    latent_dim: int | None = setting(default=None, at_least=1, at_most=1_000_000)
    n_critic: int | None = setting(default=None, at_least=1, at_most=1_000_000)
    decay: str | None = setting(default=None, choices=("none", "linear", "cosine"))
    ema: float | None = setting(default=None, at_least=0, below=1)


@dataclass
class DatasetConfig:
    """Settings that all data sets have."""

    _target_: str = MISSING
    name: str = MISSING
    recommended: Recommended = field(default_factory=Recommended)


@dataclass
class TorchvisionDatasetConfig(DatasetConfig):
    """Settings of a data set that torchvision reads from a folder or downloads to it."""

    root: str = MISSING
    download: bool = MISSING


@dataclass
class FlippableDatasetConfig(TorchvisionDatasetConfig):
    """Settings of a torchvision data set whose images may be mirrored."""

    flip: bool = MISSING  # mirror half of the training images


@dataclass
class EmnistConfig(TorchvisionDatasetConfig):
    """Settings of one of EMNIST's splits."""

    split: str = setting(choices=("balanced", "byclass", "bymerge", "digits", "letters", "mnist"))


@dataclass
class SvhnConfig(TorchvisionDatasetConfig):
    """Settings of Street View House Numbers."""

    extra: bool = MISSING


@dataclass
class Stl10Config(FlippableDatasetConfig):
    """Settings of STL-10."""

    size: int = setting(at_least=4, at_most=96)
    unlabeled: bool = MISSING


@dataclass
class ArrayConfig(DatasetConfig):
    """Settings of a data set in a file of numpy arrays."""

    path: str = MISSING
    key: str | None = MISSING


@dataclass
class ImageFilesConfig(DatasetConfig):
    """Settings of a data set of image files, which are read at the start or during training."""

    root: str = MISSING
    size: int = setting(at_least=4, at_most=1024)
    flip: bool = MISSING  # mirror half of the training images
    in_memory: bool | None = MISSING
    workers: int | None = setting(at_least=0, at_most=256)
    corrupt_limit: float = setting(at_least=0, at_most=1)  # share of all images


@dataclass
class ImageFolderConfig(ImageFilesConfig):
    """Settings of a folder with the user's images."""

    channels: int = setting(choices=(1, 3))  # grey or colour


@dataclass
class CelebAConfig(ImageFilesConfig):
    """Settings of CelebA's aligned faces."""

    download: bool = MISSING


@dataclass
class LsunConfig(ImageFilesConfig):
    """Settings of one category of LSUN's scenes."""

    category: str = setting(
        choices=(
            *("bedroom", "bridge", "church_outdoor", "classroom", "conference_room"),
            *("dining_room", "kitchen", "living_room", "restaurant", "tower"),
        )
    )


@dataclass
class SwissRollConfig(DatasetConfig):
    """Settings of a data set of points on a spiral in the plane."""

    noise: float = setting(at_least=0, at_most=1_000_000)


@dataclass
class GaussiansRingConfig(DatasetConfig):
    """Settings of a mixture of Gaussians on a circle in the plane."""

    modes: int = setting(at_least=1, at_most=10_000)
    radius: float = setting(above=0, at_most=1_000_000)
    std: float = setting(above=0, at_most=1_000_000)


@dataclass
class GaussiansGridConfig(DatasetConfig):
    """Settings of a mixture of Gaussians on a square grid in the plane."""

    side: int = setting(at_least=1, at_most=100)
    spacing: float = setting(above=0, at_most=1_000_000)
    std: float = setting(above=0, at_most=1_000_000)


_LABELLED = ["samples", "images", "labels"]
_IMAGES = ["samples", "images"]
_POINTS = DatasetTraits(["samples"], held_out_size=4096, side=0)
_GAUSSIANS = replace(_POINTS, kinds=["samples", "modes"])
_MNIST = DatasetTraits(_LABELLED, 60_000, 10_000, side=28)
_SIDE = {"side": "size"}
_CIFAR = DatasetTraits(_LABELLED, 50_000, 10_000, side=32)

DATASETS: dict[str, Component] = {
    "wgan_cli.data.images.digits": Component(
        DatasetConfig, DatasetTraits(_LABELLED, 1438, 359, side=8)
    ),
    "wgan_cli.data.images.torchvision_images": Component(
        TorchvisionDatasetConfig,
        DatasetTraits(_LABELLED),
        by_name={"mnist": _MNIST, "kmnist": _MNIST},
    ),
    "wgan_cli.data.images.flippable_images": Component(
        FlippableDatasetConfig,
        DatasetTraits(_LABELLED),
        by_name={"fashion_mnist": _MNIST, "cifar10": _CIFAR, "cifar100": _CIFAR},
    ),
    "wgan_cli.data.images.emnist": Component(EmnistConfig, DatasetTraits(_LABELLED, side=28)),
    "wgan_cli.data.images.svhn": Component(SvhnConfig, DatasetTraits(_LABELLED, side=32)),
    "wgan_cli.data.images.stl10": Component(Stl10Config, from_settings=_SIDE),
    "wgan_cli.data.stacked.stacked_mnist": Component(
        TorchvisionDatasetConfig, DatasetTraits(_LABELLED, 128_000, 26_000, side=28)
    ),
    "wgan_cli.data.arrays.array": Component(ArrayConfig),
    "wgan_cli.data.folders.image_folder": Component(ImageFolderConfig, from_settings=_SIDE),
    "wgan_cli.data.celeba.celeba": Component(
        CelebAConfig, DatasetTraits(_IMAGES, 162_770, 10_000), _SIDE
    ),
    "wgan_cli.data.lsun.lsun": Component(LsunConfig, DatasetTraits(_IMAGES), _SIDE),
    "wgan_cli.data.synthetic.swiss_roll": Component(SwissRollConfig, _POINTS),
    "wgan_cli.data.synthetic.gaussians_ring": Component(GaussiansRingConfig, _GAUSSIANS),
    "wgan_cli.data.synthetic.gaussians_grid": Component(GaussiansGridConfig, _GAUSSIANS),
    "wgan_cli.data.synthetic.parallel_lines": Component(DatasetConfig, _POINTS),
}
