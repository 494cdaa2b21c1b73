"""Rules between settings: what cannot work together, and what would have no effect.

Everything here is known from the config alone, so it is refused before anything is built.
"""

from __future__ import annotations

from collections.abc import Collection

from wgan_cli.errors import ConfigError
from wgan_cli.schema import METRICS, SCHEMAS, TrainConfig
from wgan_cli.schema.constraints import CLIPPING, GRADIENT_PENALTY, ORTHOGONAL, SPECTRAL_NORM
from wgan_cli.schema.datasets import DATA_KINDS, TRAINING_SIZES
from wgan_cli.schema.models import LIPSCHITZ_CRITIC

DEFAULT_WARMUP_N_CRITIC = 100

_NEEDED = {
    "images": "images",
    "labels": "images of 8x8 or more with labels of two classes or more",
    "modes": "Gaussian modes",
}

_ON_ORTHONORMAL = {
    CLIPPING: "clipping would cut the numbers its weights are made of",
    SPECTRAL_NORM: "spectral normalisation has nothing left to do there",
    ORTHOGONAL: "orthogonal regularisation would pull at the numbers its weights are made of",
}


def check_rules(config: TrainConfig) -> None:
    """Refuse what cannot work together and what would have no effect. Raises `ConfigError`."""
    clipping = config.constraint["_target_"] == CLIPPING
    if config.clip is not None and not clipping:
        name = config.constraint.get("name", config.constraint["_target_"])
        raise ConfigError(
            f"clip={config.clip} has no effect under constraint={name}: leave clip out, or type"
            " constraint=clip."
        )
    _refuse_unfit_constraint(config)
    if config.decay.kind == "none" and config.decay.steps is not None:
        raise ConfigError(
            f"decay.steps={config.decay.steps} has no effect under decay.kind=none: leave it out,"
            " or type decay.kind=linear or decay.kind=cosine."
        )
    warmup = config.critic_warmup
    if warmup.n_critic != DEFAULT_WARMUP_N_CRITIC and not (warmup.steps or warmup.every):
        raise ConfigError(
            f"critic_warmup.n_critic={warmup.n_critic} has no effect without critic_warmup.steps or"
            " critic_warmup.every."
        )
    if config.keep_every is not None and config.keep_every % config.checkpoint_every:
        raise ConfigError(
            f"keep_every={config.keep_every} must be a multiple of checkpoint_every="
            f"{config.checkpoint_every}: other steps have no checkpoint."
        )
    kinds = DATA_KINDS.get(config.dataset["_target_"])
    if kinds is not None:
        refuse_metrics_without(kinds, config)
        refuse_classes_without(kinds, config)
    name = config.dataset.get("name")
    size = TRAINING_SIZES.get(name) if config.dataset["_target_"] in SCHEMAS else None
    if size is not None and config.batch_size > size:
        raise ConfigError(
            f"batch_size={config.batch_size} is larger than the training part of dataset={name}:"
            f" at most {size}."
        )


def _refuse_unfit_constraint(config: TrainConfig) -> None:
    """As `constraints.refuse_unfit`, for the critics whose config says enough."""
    constraint, critic = config.constraint["_target_"], config.model["critic"]
    if critic["_target_"] == LIPSCHITZ_CRITIC and constraint in _ON_ORTHONORMAL:
        name = config.model.get("name", LIPSCHITZ_CRITIC)
        raise ConfigError(
            f"model={name} has a critic that is 1-Lipschitz by construction, and"
            f" {_ON_ORTHONORMAL[constraint]}: type constraint=none."
        )
    norm = critic.get("norm", "none") if critic["_target_"] in SCHEMAS else "none"
    if constraint == GRADIENT_PENALTY and norm == "batch":
        raise ConfigError(
            "constraint=gradient_penalty holds the slope at each sample, and under"
            " model.critic.norm=batch that depends on the other samples: type"
            " model.critic.norm=layer or model.critic.norm=group."
        )
    if constraint == SPECTRAL_NORM and norm != "none":
        raise ConfigError(
            "constraint=spectral_norm bounds the critic by its weights, and"
            f" model.critic.norm={norm} undoes that bound: type model.critic.norm=none."
        )
    if constraint == GRADIENT_PENALTY and config.compile:
        raise ConfigError(
            "compile=true does not go with constraint=gradient_penalty: torch.compile cannot"
            " differentiate twice. Type compile=false."
        )


def refuse_classes_without(kinds: Collection[str], config: TrainConfig) -> None:
    """Raise `ConfigError` for a conditional run on data without labels."""
    if config.conditional and "labels" not in kinds:
        raise classless(config)


def classless(config: TrainConfig) -> ConfigError:
    """What a conditional run on data without labels is told."""
    name = config.dataset.get("name", "this data set")
    return ConfigError(
        f"conditional=true needs samples with labels, and {name} has none: leave it out, or choose"
        " another dataset."
    )


def refuse_metrics_without(kinds: Collection[str], config: TrainConfig) -> None:
    """Raise `ConfigError` where a metric needs what the data have not (`schema.METRICS`)."""
    for tag in config.metrics or ():
        if METRICS[tag] not in kinds:
            name = config.dataset.get("name", "this data set")
            raise ConfigError(
                f"metrics: {tag} needs {_NEEDED[METRICS[tag]]}, and {name} has none; leave it out."
            )
