"""Check by traits alone whether a constraint can be used with a critic.

The check runs twice: on the config before anything is built, and on the layers of the built critic.
"""

from __future__ import annotations

from dataclasses import dataclass

from wgan_cli.errors import ConfigError
from wgan_cli.schema import TrainConfig, traits


@dataclass(frozen=True)
class CriticFacts:
    """The facts about a critic that decide which constraints it allows.

    None means unknown, and an unknown fact is never refused. `batch_norm` and `normalization` name
    the layers, by a setting or by module names; they are empty if there are none or if unknown.
    """

    lipschitz: bool = False  # by construction
    batch_norm: str = ""
    normalization: str = ""  # any kind, including BatchNorm
    has_normalization: bool | None = None
    has_linear_layers: bool | None = None

    @classmethod
    def from_config(cls, config: TrainConfig) -> CriticFacts:
        """Return the facts that the config gives before the critic is built."""
        stated = traits("network", config.model["critic"])
        norm = stated.normalization
        where = f"model.critic.norm={norm}" if norm not in (None, "none") else ""
        return cls(
            lipschitz=stated.lipschitz,
            batch_norm=where if norm == "batch" else "",
            normalization=where,
            has_normalization=None if norm is None else norm != "none",
        )


def refuse_pair(config: TrainConfig, critic: CriticFacts) -> None:
    """Raise `ConfigError` if the config's constraint cannot be used with the critic."""
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
