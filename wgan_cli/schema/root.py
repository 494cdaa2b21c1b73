"""A run's settings as three classes: as the user gave them, filled in, and complete."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from wgan_cli.schema.metrics import METRICS
from wgan_cli.schema.settings import setting

if TYPE_CHECKING:
    # The config node of a group: a read-only mapping from names of settings to their values.
    Node = Mapping[str, Any]
else:
    # OmegaConf reads these annotations and does not support Mapping.
    Node = Any


@dataclass(frozen=True)
class CriticWarmup:
    """More critic updates in the first `steps` generator updates and in every `every`-th one.

    In these generator updates, `n_critic` replaces the root setting of that name.
    """

    steps: int = setting(at_least=0)
    n_critic: int = setting(at_least=1, at_most=1_000_000)
    every: int = setting(at_least=0)


@dataclass(frozen=True)
class GradientClipping:
    """The largest allowed gradient norm over all weights of each network; null means no limit."""

    critic: float | None = setting(above=0, at_most=1e30)
    generator: float | None = setting(above=0, at_most=1e30)


@dataclass(frozen=True)
class Decay:
    """The decay of the learning rate to zero over `steps` generator updates."""

    kind: str | None = setting(choices=("none", "linear", "cosine"))
    steps: int | None = setting(at_least=1)


@dataclass(frozen=True, kw_only=True)
class FilledDecay(Decay):
    """The decay that a run uses; `steps` is null if `kind` is "none"."""

    kind: str


@dataclass(frozen=True)
class RollbackConfig:
    """How often a diverging run may roll back, and the learning-rate factor for each rollback."""

    times: int = setting(at_least=1)
    lr_factor: float = setting(above=0, below=1)


@dataclass(frozen=True)
class TrainConfig:
    """The settings of `configs/train.yaml` as the user gave them.

    Recommended values are not filled in yet (see `FilledConfig`). Null usually means that the
    program chooses the value.
    """

    dataset: Node = setting(default=None)
    model: Node = setting(default=None)
    loss: Node = setting(default=None)
    constraint: Node = setting(default=None)
    optimizer: Node = setting(default=None)
    # Maps each logger's name to its settings.
    logger: Node = setting(default=None)

    seed: int = setting(at_least=0, at_most=2**63 - 1)
    device: str = MISSING
    threads: int | None = setting(at_least=1, at_most=4096)
    precision: str = setting(choices=("auto", "fp32", "bf16"))
    deterministic: bool = MISSING
    graphs: bool | None = MISSING
    compile: bool | None = MISSING

    steps: int | None = setting(at_least=1, at_most=1_000_000_000)
    batch_size: int = setting(at_least=1, at_most=1_000_000)
    latent_dim: int | None = setting(at_least=1, at_most=1_000_000)
    n_critic: int | None = setting(at_least=1, at_most=1_000_000)
    critic_warmup: CriticWarmup = dataclasses.field(default_factory=CriticWarmup)
    clip: float | None = setting(above=0, at_most=1_000_000)
    ema: float | None = setting(at_least=0, below=1)
    decay: Decay = dataclasses.field(default_factory=Decay)
    grad_clip: GradientClipping = dataclasses.field(default_factory=GradientClipping)
    conditional: bool = MISSING
    on_divergence: str = setting(choices=("stop", "rollback"))
    rollback: RollbackConfig = dataclasses.field(default_factory=RollbackConfig)

    metrics: list[str] | None = setting(choices=tuple(METRICS))
    log_every: int = setting(at_least=1)
    sample_every: int = setting(at_least=1)
    checkpoint_every: int = setting(at_least=1)
    keep_every: int | None = setting(at_least=1)
    eval_every: int = setting(at_least=1)
    eval_samples: int | None = setting(at_least=4)
    feature_samples: int | None = setting(at_least=2)
    profile: bool = MISSING

    resume: str | None = MISSING


@dataclass(frozen=True, kw_only=True)
class FilledConfig(TrainConfig):
    """Settings after `config.fill`. Hardware, `metrics` and sample counts may still be unset."""

    steps: int
    latent_dim: int
    n_critic: int
    ema: float
    decay: FilledDecay


@dataclass(frozen=True, kw_only=True)
class RunConfig(FilledConfig):
    """The complete settings of a run, as saved in `config.yaml` and checkpoints."""

    device: str
    threads: int
    precision: str
    compile: bool
    metrics: list[str]
    eval_samples: int
    feature_samples: int
