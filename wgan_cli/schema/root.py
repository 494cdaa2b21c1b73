"""The settings of `configs/train.yaml`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from wgan_cli.schema.metrics import METRICS
from wgan_cli.schema.settings import setting


@dataclass
class CriticWarmup:
    """More critic updates for the first `steps` generator updates and at every `every`-th."""

    steps: int = setting(at_least=0)
    n_critic: int = setting(at_least=1, at_most=1_000_000)
    every: int = setting(at_least=0)


@dataclass
class GradientClipping:
    """The longest gradient of each network, over all its weights; null: any length."""

    critic: float | None = setting(default=None, above=0, at_most=1e30)
    generator: float | None = setting(default=None, above=0, at_most=1e30)


@dataclass
class Decay:
    """The learning rate's decay to zero over `steps` generator updates."""

    kind: str | None = setting(choices=("none", "linear", "cosine"))
    steps: int | None = setting(at_least=1)


@dataclass
class RollbackConfig:
    """How often a run that diverges goes back, and by how much its learning rates fall then."""

    times: int = setting(at_least=1)
    lr_factor: float = setting(above=0, below=1)


@dataclass
class TrainConfig:
    """A run's settings: the groups as plain dicts, and the settings of `configs/train.yaml`."""

    dataset: Any = None
    model: Any = None
    loss: Any = None
    constraint: Any = None
    optimizer: Any = None
    # Each logger's settings by its name.
    logger: Any = None

    seed: int = setting(at_least=0, at_most=2**63 - 1)
    device: str = MISSING
    threads: int | None = setting(at_least=1, at_most=4096)
    precision: str = setting(choices=("auto", "fp32", "bf16"))
    deterministic: bool = False
    graphs: bool = False
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
    conditional: bool = False
    on_divergence: str = setting(choices=("stop", "rollback"))
    rollback: RollbackConfig = dataclasses.field(default_factory=RollbackConfig)

    metrics: list[str] | None = setting(choices=tuple(METRICS))
    log_every: int = setting(at_least=1)
    sample_every: int = setting(at_least=1)
    checkpoint_every: int = setting(at_least=1)
    keep_every: int | None = setting(default=None, at_least=1)
    eval_every: int = setting(at_least=1)
    eval_samples: int | None = setting(at_least=4)
    feature_samples: int | None = setting(default=None, at_least=2)
    profile: bool = False

    resume: str | None = MISSING
