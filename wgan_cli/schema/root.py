"""A run's settings, in three stages: as typed, with recommendations filled in, and complete."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from wgan_cli.schema.metrics import METRICS
from wgan_cli.schema.settings import setting

if TYPE_CHECKING:
    # The node of a group: settings by name, read-only.
    Component = Mapping[str, Any]
else:
    # OmegaConf, which reads these annotations, does not know Mapping.
    Component = Any


@dataclass(frozen=True)
class CriticWarmup:
    """More critic updates for the first `steps` generator updates and at every `every`-th."""

    steps: int = setting(at_least=0)
    n_critic: int = setting(at_least=1, at_most=1_000_000)
    every: int = setting(at_least=0)


@dataclass(frozen=True)
class GradientClipping:
    """The largest norm of each network's gradient, over all its weights; null: no limit."""

    critic: float | None = setting(above=0, at_most=1e30)
    generator: float | None = setting(above=0, at_most=1e30)


@dataclass(frozen=True)
class Decay:
    """The learning rate's decay to zero over `steps` generator updates."""

    kind: str | None = setting(choices=("none", "linear", "cosine"))
    steps: int | None = setting(at_least=1)


@dataclass(frozen=True, kw_only=True)
class FilledDecay(Decay):
    """The decay that a run uses; `steps` is null where `kind` is none."""

    kind: str


@dataclass(frozen=True)
class RollbackConfig:
    """How often a run that diverges goes back, and the factor on its learning rates each time."""

    times: int = setting(at_least=1)
    lr_factor: float = setting(above=0, below=1)


@dataclass(frozen=True)
class TrainConfig:
    """The settings of `configs/train.yaml` as typed; most that may be null mean: choose for me."""

    dataset: Component = setting(default=None)
    model: Component = setting(default=None)
    loss: Component = setting(default=None)
    constraint: Component = setting(default=None)
    optimizer: Component = setting(default=None)
    # Each logger's settings by its name.
    logger: Component = setting(default=None)

    seed: int = setting(at_least=0, at_most=2**63 - 1)
    device: str = MISSING
    threads: int | None = setting(at_least=1, at_most=4096)
    precision: str = setting(choices=("auto", "fp32", "bf16"))
    deterministic: bool = MISSING
    graphs: bool = MISSING
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
    """The settings after `config.fill`: the machine's, `metrics` and sample counts may be open."""

    steps: int
    latent_dim: int
    n_critic: int
    ema: float
    decay: FilledDecay


@dataclass(frozen=True, kw_only=True)
class RunConfig(FilledConfig):
    """Every setting of a run, as `config.yaml` and checkpoints hold them."""

    device: str
    threads: int
    precision: str
    compile: bool
    metrics: list[str]
    eval_samples: int
    feature_samples: int
