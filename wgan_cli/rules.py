"""Refuse settings that cannot work together, or that would have no effect.

The rules need only the config and the components' traits, so they run before anything is built.
After the critic is built, `refuse_pair` runs again with the facts about its layers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from wgan_cli.errors import ConfigError
from wgan_cli.schema import METRICS, TrainConfig, traits

DEFAULT_WARMUP_N_CRITIC = 100

_NEEDED = {
    "samples": "samples",
    "images": "images",
    "labels": "images of 8x8 or more with labels of two classes or more",
    "modes": "Gaussian modes",
}


@dataclass(frozen=True)
class CriticFacts:
    """The facts about a critic that decide which constraints it allows.

    None means that a fact is unknown; an unknown fact rules out no constraint. `batch_norm` and
    `normalization` are texts for messages that name such layers, by a setting or by module names.
    They are empty if the critic has no such layers or if this is unknown.
    """

    lipschitz: bool = False  # by construction
    batch_norm: str = ""
    normalization: str = ""  # any kind, including BatchNorm
    has_normalization: bool | None = None
    has_linear_layers: bool | None = None

    @classmethod
    def from_config(cls, config: TrainConfig) -> CriticFacts:
        """Return the facts that are known from the config, before the critic is built."""
        stated = traits("network", config.model["critic"])
        norm = stated.normalization
        where = f"model.critic.norm={norm}" if norm not in (None, "none") else ""
        return cls(
            lipschitz=stated.lipschitz,
            batch_norm=where if norm == "batch" else "",
            normalization=where,
            has_normalization=None if norm is None else norm != "none",
        )


def check_rules(config: TrainConfig) -> None:
    """Raise `ConfigError` for settings that cannot work together or would have no effect."""
    _refuse_images_for_points(config)
    if config.clip is not None and not traits("constraint", config.constraint).takes_clip:
        name = config.constraint.get("name", config.constraint["_target_"])
        raise ConfigError(
            f"clip={config.clip} has no effect under constraint={name}: leave clip out, or type"
            " constraint=clip."
        )
    _refuse_unfit_images(config)
    refuse_pair(config, CriticFacts.from_config(config))
    rate = config.optimizer.get("lr")
    if rate is not None and own_rates(config):
        raise ConfigError(
            f"optimizer.lr={rate} has no effect, for optimizer.critic.lr and optimizer.generator.lr"
            " are both given: leave one out, or type optimizer.lr=null."
        )
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
    kinds = traits("dataset", config.dataset).kinds
    if kinds is not None:
        refuse_metrics_without(kinds, config)
        if config.conditional and "labels" not in kinds:
            raise classless(config)
        for network in ("generator", "critic"):
            if config.conditional and traits("network", config.model[network]).classes is False:
                raise takes_no_classes(config.model["name"], network)
    _refuse_more_than_there_is(config)


def own_rates(config: TrainConfig) -> bool:
    """Return whether `optimizer.critic.lr` and `optimizer.generator.lr` are both given."""
    overrides = (config.optimizer.get(network) or {} for network in ("critic", "generator"))
    return all(settings.get("lr") is not None for settings in overrides)


def _refuse_more_than_there_is(config: TrainConfig) -> None:
    name, known = _dataset_name(config), traits("dataset", config.dataset)
    training, held_out = known.training_size, known.held_out_size
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


def _refuse_images_for_points(config: TrainConfig) -> None:
    """Refuse images or a wrong latent_dim for a network of 2D points; suggest other settings."""
    for network in ("generator", "critic"):
        needs, needed = traits("network", config.model[network]), []
        if needs.images is False and traits("dataset", config.dataset).side not in (0, None):
            needed.append(f"dataset={needs.dataset or 'swiss_roll'}")
        if needs.latent_dim is not None and config.latent_dim not in (needs.latent_dim, None):
            needed.append(f"latent_dim={needs.latent_dim}")
        if not needed:
            continue
        critic = CriticFacts.from_config(config)
        if critic.lipschitz and traits("constraint", config.constraint).acts_on_weights:
            needed.append("constraint=none")
        raise ConfigError(
            f"The {network} of model={config.model['name']} is made for other data or another"
            f" latent_dim: type {' '.join(needed)}."
        )


def _refuse_unfit_images(config: TrainConfig) -> None:
    """Refuse points, or images of an unsupported size, for a network that takes images."""
    side, name = traits("dataset", config.dataset).side, _dataset_name(config)
    for network in ("generator", "critic"):
        takes, model = traits("network", config.model[network]), config.model["name"]
        if side is None or not takes.images:
            continue
        if side == 0:
            raise ConfigError(
                f"model={model} is for images, and dataset={name} has points: type model=mlp."
            )
        if side % takes.side_multiple:
            needed = f"whose side is divisible by {takes.side_multiple}"
        elif takes.sides and side not in takes.sides:
            needed = f"of {', '.join(map(str, takes.sides[:-1]))} or {takes.sides[-1]} pixels"
        else:
            continue
        raise ConfigError(
            f"model={model} needs square images {needed}, and those of dataset={name} are"
            f" {side}x{side}: type model=mlp, or another dataset or dataset.size."
        )


def _refuse_overshooting_decay(config: TrainConfig) -> None:
    """Refuse lr * weight_decay >= 1 if the optimizer scales weights by 1 - lr * weight_decay."""
    if not traits("optimizer", config.optimizer).decay_is_a_factor:
        return
    for network in ("critic", "generator"):
        own = config.optimizer.get(network) or {}
        given = {key: value for key, value in own.items() if value is not None}
        settings = {**config.optimizer, **given}
        rate, decay = settings.get("lr"), settings.get("weight_decay")
        if rate is not None and decay is not None and rate * decay >= 1:
            raise ConfigError(
                f"optimizer.weight_decay={decay} times optimizer.lr={rate} is {rate * decay:g} for"
                f" the {network}, so that decay would take weights beyond 0: choose both so that it"
                " is below 1."
            )


def takes_no_classes(model: str, network: str) -> ConfigError:
    """Return the error for a conditional run with a network that takes no classes."""
    return ConfigError(
        f"conditional=true: the {network} of model={model} takes no classes. Leave it out, or type"
        " model=mlp, model=dcgan or model=resnet."
    )


def classless(config: TrainConfig) -> ConfigError:
    """Return the error for a conditional run on data without labels."""
    return ConfigError(
        f"conditional=true needs samples with labels, and {_dataset_name(config)} has none: leave"
        " it out, or choose another dataset."
    )


def refuse_metrics_without(kinds: Collection[str], config: TrainConfig) -> None:
    """Raise `ConfigError` if a metric needs a kind of data, such as labels, that `kinds` lacks."""
    for tag in config.metrics or ():
        if METRICS[tag].needs not in kinds:
            raise ConfigError(
                f"metrics: {tag} needs {_NEEDED[METRICS[tag].needs]}, and {_dataset_name(config)}"
                " has none; leave it out."
            )


def _dataset_name(config: TrainConfig) -> str:
    return str(config.dataset.get("name", "this data set"))


def refuse_pair(config: TrainConfig, critic: CriticFacts) -> None:
    """Raise `ConfigError` if the constraint cannot be used with this critic."""
    held = traits("constraint", config.constraint)
    name = config.constraint.get("name") or config.constraint["_target_"]
    if held.acts_on_weights and critic.lipschitz:
        raise ConfigError(
            f"constraint={name} acts on the critic's weights, and the critic of"
            f" model={config.model['name']} is Lipschitz by construction: the constraint would undo"
            " that or do nothing. Type constraint=none."
        )
    if held.exempts_normalization and critic.has_normalization is False:
        raise ConfigError(
            "constraint.exempt_normalization=true has no effect: the critic has no normalisation"
            " layer. Leave it out, or type model.critic.norm=layer under model=dcgan."
        )
    if held.needs_independent_samples and critic.batch_norm:
        raise ConfigError(
            f"constraint={name} needs a critic that scores each sample by itself, and under"
            f" BatchNorm ({critic.batch_norm}) a score depends on the rest of the batch: type"
            " model.critic.norm=layer or model.critic.norm=group, or build your own critic with"
            " LayerNorm or GroupNorm."
        )
    if held.undone_by_normalization and critic.normalization:
        raise ConfigError(
            f"constraint={name} bounds the critic by its weights, and normalisation layers"
            f" ({critic.normalization}) undo that bound: type model.critic.norm=none, take them out"
            " of your own critic, or type constraint=gradient_penalty."
        )
    if held.needs_linear_layers and critic.has_linear_layers is False:
        raise ConfigError(
            f"constraint={name} has no effect: the critic has neither linear nor convolution"
            " layers. Type constraint=gradient_penalty or constraint=clip."
        )
    if held.differentiates_twice and config.compile:
        raise ConfigError(
            f"compile=true does not go with constraint={name}, which may differentiate twice:"
            " torch.compile cannot do that. Type compile=false, or, for a constraint of"
            " your own that does not, state traits: {differentiates_twice: false} in its YAML."
        )
