"""The types and ranges of every setting: one dataclass a component, and the root's.

Default values stand in `configs/`, once; here are types, ranges and what each setting is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

# What evaluations can measure, each with what the data must have for it.
METRICS = {
    "critic/wasserstein_heldout": "samples",
    "critic/lipschitz": "samples",
    "wasserstein/exact": "samples",
    "wasserstein/sliced": "samples",
    "wasserstein/normalized": "samples",
    "critic/gradient_norms": "samples",
    "critic/weights": "samples",
    "metrics/precision_pixel": "images",
    "metrics/recall_pixel": "images",
    "metrics/fid_classifier": "labels",
    "metrics/class_kl": "labels",
    "metrics/kid_classifier": "labels",
    "metrics/is_classifier": "labels",
    "metrics/precision_classifier": "labels",
    "metrics/recall_classifier": "labels",
    "metrics/fid_inception": "images",
    "metrics/kid_inception": "images",
    "metrics/is_inception": "images",
    "metrics/precision_inception": "images",
    "metrics/recall_inception": "images",
    "metrics/modes_found": "modes",
    "metrics/share_within_3sigma": "modes",
}


def setting(
    *,
    default: Any = MISSING,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    multiple_of: int | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A field with its range; without a default unless given, as defaults stand in YAML."""
    limits = {
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "below": below,
        "multiple_of": multiple_of,
        "choices": choices,
    }
    metadata = {k: v for k, v in limits.items() if v is not None}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


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


@dataclass
class PerceptronConfig:
    """A multilayer perceptron."""

    _target_: str = MISSING
    width: int = setting(at_least=1, at_most=65_536)
    depth: int = setting(at_least=1, at_most=100)


@dataclass
class LipschitzConfig:
    """A perceptron that is 1-Lipschitz by construction; MaxMin sorts its units in pairs."""

    _target_: str = MISSING
    width: int = setting(at_least=2, at_most=65_536, multiple_of=2)
    depth: int = setting(at_least=1, at_most=100)


@dataclass
class DcganConfig:
    """A convolutional network after DCGAN."""

    _target_: str = MISSING
    width: int = setting(at_least=1, at_most=4_096)
    batch_norm: bool = MISSING


@dataclass
class ParallelLinesConfig:
    """A generator of points on a vertical line."""

    _target_: str = MISSING
    theta: float = MISSING


@dataclass
class NamedConfig:
    """A component without settings of its own."""

    _target_: str = MISSING
    name: str = MISSING


@dataclass
class GanLossConfig(NamedConfig):
    """The GAN baseline."""

    saturating: bool = MISSING


@dataclass
class ClippingConfig(NamedConfig):
    """Weight clipping; its bound is the root setting `clip`."""

    exempt_normalization: bool = MISSING


@dataclass
class RMSpropSettings:
    """One network's RMSprop; null inherits."""

    lr: float | None = setting(above=0)
    alpha: float | None = setting(at_least=0, below=1)
    eps: float | None = setting(above=0)
    momentum: float | None = setting(at_least=0, below=1)
    weight_decay: float | None = setting(at_least=0)


@dataclass
class RMSpropConfig(RMSpropSettings):
    """RMSprop for both networks, each overridable for either."""

    _target_: str = MISSING
    name: str = MISSING
    critic: RMSpropSettings = dataclasses.field(default_factory=RMSpropSettings)
    generator: RMSpropSettings = dataclasses.field(default_factory=RMSpropSettings)


@dataclass
class AdamSettings:
    """One network's Adam; null inherits."""

    lr: float | None = setting(above=0)
    betas: list[float] | None = setting(at_least=0, below=1)
    eps: float | None = setting(above=0)
    weight_decay: float | None = setting(at_least=0)


@dataclass
class AdamConfig(AdamSettings):
    """Adam for both networks, each overridable for either."""

    _target_: str = MISSING
    name: str = MISSING
    critic: AdamSettings = dataclasses.field(default_factory=AdamSettings)
    generator: AdamSettings = dataclasses.field(default_factory=AdamSettings)


@dataclass
class SGDSettings:
    """One network's stochastic gradient descent; null inherits."""

    lr: float | None = setting(above=0)
    momentum: float | None = setting(at_least=0, below=1)
    weight_decay: float | None = setting(at_least=0)


@dataclass
class SGDConfig(SGDSettings):
    """Stochastic gradient descent for both networks, each overridable for either."""

    _target_: str = MISSING
    name: str = MISSING
    critic: SGDSettings = dataclasses.field(default_factory=SGDSettings)
    generator: SGDSettings = dataclasses.field(default_factory=SGDSettings)


@dataclass
class CriticWarmup:
    """More critic updates for the first `steps` generator updates and at every `every`-th."""

    steps: int = setting(at_least=0)
    n_critic: int = setting(at_least=1)
    every: int = setting(at_least=0)


@dataclass
class Decay:
    """The learning rate's decay to zero over `steps` generator updates."""

    kind: str | None = setting(choices=("none", "linear", "cosine"))
    steps: int | None = setting(at_least=1)


@dataclass
class TrainConfig:
    """A run's settings: five groups as plain dicts, and the settings of `configs/train.yaml`."""

    dataset: Any = None
    model: Any = None
    loss: Any = None
    constraint: Any = None
    optimizer: Any = None

    seed: int = setting(at_least=0, at_most=2**63 - 1)
    device: str = MISSING
    threads: int | None = setting(at_least=1, at_most=4096)
    precision: str = setting(choices=("auto", "fp32", "bf16"))
    compile: bool | None = MISSING

    steps: int | None = setting(at_least=1)
    batch_size: int = setting(at_least=1)
    latent_dim: int | None = setting(at_least=1, at_most=1_000_000)
    n_critic: int | None = setting(at_least=1)
    critic_warmup: CriticWarmup = dataclasses.field(default_factory=CriticWarmup)
    clip: float | None = setting(above=0)
    ema: float | None = setting(at_least=0, below=1)
    decay: Decay = dataclasses.field(default_factory=Decay)

    metrics: list[str] | None = setting(choices=tuple(METRICS))
    log_every: int = setting(at_least=1)
    sample_every: int = setting(at_least=1)
    checkpoint_every: int = setting(at_least=1)
    keep_every: int | None = setting(default=None, at_least=1)
    eval_every: int = setting(at_least=1)
    eval_samples: int | None = setting(at_least=4)
    feature_samples: int | None = setting(default=None, at_least=2)

    resume: str | None = MISSING


# Options shipped here, by target. Anything else is a user's own, checked against its signature.
SCHEMAS: dict[str, type] = {
    "wgan_cli.data.images.digits": DatasetConfig,
    "wgan_cli.data.images.torchvision_images": TorchvisionDatasetConfig,
    "wgan_cli.data.synthetic.gaussians_ring": GaussiansRingConfig,
    "wgan_cli.data.synthetic.gaussians_grid": GaussiansGridConfig,
    "wgan_cli.data.synthetic.parallel_lines": DatasetConfig,
    "wgan_cli.models.mlp.Generator": PerceptronConfig,
    "wgan_cli.models.mlp.Critic": PerceptronConfig,
    "wgan_cli.models.dcgan.Generator": DcganConfig,
    "wgan_cli.models.dcgan.Critic": DcganConfig,
    "wgan_cli.models.lipschitz.Critic": LipschitzConfig,
    "wgan_cli.models.parallel_lines.Generator": ParallelLinesConfig,
    "wgan_cli.losses.Wasserstein": NamedConfig,
    "wgan_cli.losses.Hinge": NamedConfig,
    "wgan_cli.losses.Gan": GanLossConfig,
    "wgan_cli.constraints.WeightClipping": ClippingConfig,
    "wgan_cli.constraints.Unconstrained": NamedConfig,
    "wgan_cli.optimizers.RMSprop": RMSpropConfig,
    "torch.optim.Adam": AdamConfig,
    "torch.optim.SGD": SGDConfig,
}
