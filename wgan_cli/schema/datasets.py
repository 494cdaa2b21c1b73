"""Data sets: their settings by target, and what is known of them before anything is read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from omegaconf import MISSING

from wgan_cli.schema.settings import setting


@dataclass
class Recommended:
    """What a data set recommends; null where it recommends nothing."""

    steps: int | None = setting(default=None, at_least=1)
    clip: float | None = setting(default=None, above=0)
    lr: dict[str, float] = setting(default={}, above=0)  # by the optimizer's name
    latent_dim: int | None = setting(default=None, at_least=1, at_most=1_000_000)
    n_critic: int | None = setting(default=None, at_least=1)
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
class GaussiansRingConfig(DatasetConfig):
    """Gaussians on a circle in the plane."""

    modes: int = setting(at_least=1, at_most=10_000)
    radius: float = setting(above=0)
    std: float = setting(above=0)


@dataclass
class GaussiansGridConfig(DatasetConfig):
    """Gaussians on a square grid in the plane."""

    side: int = setting(at_least=1, at_most=100)
    spacing: float = setting(above=0)
    std: float = setting(above=0)


DATASETS: dict[str, type] = {
    "wgan_cli.data.images.digits": DatasetConfig,
    "wgan_cli.data.images.torchvision_images": TorchvisionDatasetConfig,
    "wgan_cli.data.synthetic.gaussians_ring": GaussiansRingConfig,
    "wgan_cli.data.synthetic.gaussians_grid": GaussiansGridConfig,
    "wgan_cli.data.synthetic.parallel_lines": DatasetConfig,
}

# What the samples have, for the metrics that need it; left out where only the files tell.
_IMAGES = frozenset({"samples", "images", "labels"})
DATA_KINDS = {
    "wgan_cli.data.images.digits": _IMAGES,
    "wgan_cli.data.images.torchvision_images": _IMAGES,
    "wgan_cli.data.synthetic.gaussians_ring": frozenset({"samples", "modes"}),
    "wgan_cli.data.synthetic.gaussians_grid": frozenset({"samples", "modes"}),
    "wgan_cli.data.synthetic.parallel_lines": frozenset({"samples"}),
}

# Training parts whose size is a fact known before anything is read, by name.
TRAINING_SIZES = {"digits": 1438, "mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000}
