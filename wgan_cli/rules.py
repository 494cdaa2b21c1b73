"""Rules between settings: what cannot work together, and what would have no effect.

Everything here is known from the config alone, so it is refused before anything is built.
"""

from __future__ import annotations

from collections.abc import Collection

from wgan_cli.errors import ConfigError
from wgan_cli.schema import METRICS, SCHEMAS, TrainConfig
from wgan_cli.schema.constraints import CLIPPING, GRADIENT_PENALTY, ORTHOGONAL, SPECTRAL_NORM
from wgan_cli.schema.datasets import DATA_KINDS, HELD_OUT_SIZES, TRAINING_SIZES, known_side
from wgan_cli.schema.models import CLASSLESS, LINES_GENERATOR, LIPSCHITZ_CRITIC, RESNET_SIDES
from wgan_cli.schema.optimizers import SGD

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
    _refuse_lines_elsewhere(config)
    clipping = config.constraint["_target_"] == CLIPPING
    if config.clip is not None and not clipping:
        name = config.constraint.get("name", config.constraint["_target_"])
        raise ConfigError(
            f"clip={config.clip} has no effect under constraint={name}: leave clip out, or type"
            " constraint=clip."
        )
    _refuse_unfit_images(config)
    _refuse_unfit_constraint(config)
    _refuse_useless_rate(config)
    _refuse_overshooting_decay(config)
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
    if config.dataset["_target_"] in SCHEMAS:
        _refuse_more_than_there_is(config)


def own_rates(config: TrainConfig) -> bool:
    """Whether both networks have a learning rate of their own."""
    own = (config.optimizer.get(network) or {} for network in ("critic", "generator"))
    return all(settings.get("lr") is not None for settings in own)


def _refuse_more_than_there_is(config: TrainConfig) -> None:
    name = config.dataset["name"]
    training, held_out = TRAINING_SIZES.get(name), HELD_OUT_SIZES.get(name)
    if training is not None and config.batch_size > training:
        raise ConfigError(
            f"batch_size={config.batch_size} is larger than the training part of dataset={name}:"
            f" at most {training}."
        )
    if held_out is not None and config.eval_samples and 2 * config.eval_samples > held_out:
        raise ConfigError(
            f"eval_samples={config.eval_samples} is too many: {name} has {held_out} held-out"
            " samples and an evaluation needs two disjoint sets of them, so at most"
            f" {held_out // 2}."
        )


def _refuse_lines_elsewhere(config: TrainConfig) -> None:
    """`model=parallel_lines` has one place where it works: everything it needs, at once."""
    if config.model["generator"]["_target_"] != LINES_GENERATOR:
        return
    wanted = []
    if known_side(config.dataset) not in (0, None):
        wanted.append("dataset=parallel_lines")
    if config.latent_dim not in (1, None):
        wanted.append("latent_dim=1")
    lipschitz = config.model["critic"]["_target_"] == LIPSCHITZ_CRITIC
    if lipschitz and config.constraint["_target_"] in _ON_ORTHONORMAL:
        wanted.append("constraint=none")
    if wanted:
        raise ConfigError(
            "model=parallel_lines maps one number to a point of the plane, and its critic is"
            f" 1-Lipschitz by construction: type {' '.join(wanted)}."
        )


def _refuse_unfit_images(config: TrainConfig) -> None:
    """As the models do themselves, for data sets whose images the config tells."""
    side = known_side(config.dataset)
    for network in ("generator", "critic"):
        target = config.model[network]["_target_"]
        kind = target.removeprefix("wgan_cli.models.").partition(".")[0]
        if side is None or target not in SCHEMAS or kind not in ("dcgan", "resnet"):
            continue
        name = config.dataset["name"]
        if side == 0:
            raise ConfigError(
                f"model={kind} draws images, and dataset={name} has points: type model=mlp."
            )
        if kind == "dcgan" and side % 4:
            raise ConfigError(
                f"model=dcgan needs square images whose side is divisible by 4, and those of"
                f" dataset={name} are {side}x{side}: type model=mlp, or another dataset.size."
            )
        if kind == "resnet" and side not in RESNET_SIDES:
            raise ConfigError(
                f"model=resnet needs square images of {', '.join(map(str, RESNET_SIDES[:-1]))} or"
                f" {RESNET_SIDES[-1]} pixels, and those of dataset={name} are {side}x{side}: type"
                " model=mlp, or another dataset."
            )


def _refuse_useless_rate(config: TrainConfig) -> None:
    rate = config.optimizer.get("lr")
    if rate is not None and own_rates(config):
        raise ConfigError(
            f"optimizer.lr={rate} has no effect, for optimizer.critic.lr and optimizer.generator.lr"
            " are both given: leave one out, or type optimizer.lr=null."
        )


def _refuse_overshooting_decay(config: TrainConfig) -> None:
    """Gradient descent multiplies weights by 1 - lr * weight_decay; others divide by a norm."""
    if config.optimizer["_target_"] != SGD:
        return
    for network in ("critic", "generator"):
        own = config.optimizer[network]
        rate, decay = (
            config.optimizer[key] if own[key] is None else own[key]
            for key in ("lr", "weight_decay")
        )
        if rate is not None and rate * decay >= 1:
            raise ConfigError(
                f"optimizer.weight_decay={decay} times optimizer.lr={rate} is {rate * decay:g} for"
                f" the {network}, so that decay would take weights beyond 0: choose both so that it"
                " is below 1."
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
    shipped = critic["_target_"] in SCHEMAS
    norm = critic.get("norm", "none") if shipped else "none"
    exempt = constraint == CLIPPING and config.constraint["exempt_normalization"]
    if exempt and shipped and norm == "none":
        raise ConfigError(
            "constraint.exempt_normalization=true has no effect: the critic has no normalisation"
            " layer. Leave it out, or type model.critic.norm=layer under model=dcgan."
        )
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
    for network in ("generator", "critic"):
        if config.conditional and config.model[network]["_target_"] in CLASSLESS:
            raise knows_no_classes(config, network)


def classless(config: TrainConfig) -> ConfigError:
    """What a conditional run on data without labels is told."""
    name = config.dataset.get("name", "this data set")
    return ConfigError(
        f"conditional=true needs samples with labels, and {name} has none: leave it out, or choose"
        " another dataset."
    )


def knows_no_classes(config: TrainConfig, network: str) -> ConfigError:
    """What a conditional run is told whose `network` is not made for classes."""
    name = config.model.get("name") or config.model[network]["_target_"]
    return ConfigError(
        f"conditional=true: the {network} of model={name} knows no classes. Leave it out, or type"
        " model=mlp, model=dcgan or model=resnet."
    )


def refuse_metrics_without(kinds: Collection[str], config: TrainConfig) -> None:
    """Raise `ConfigError` where a metric needs what the data have not (`schema.METRICS`)."""
    for tag in config.metrics or ():
        if METRICS[tag] not in kinds:
            name = config.dataset.get("name", "this data set")
            raise ConfigError(
                f"metrics: {tag} needs {_NEEDED[METRICS[tag]]}, and {name} has none; leave it out."
            )
