"""Turn a composed config into typed settings: check them, and fill in recommended values.

`validate` turns a composed config into frozen dataclasses or raises `ConfigError`. `fill` replaces
null settings by the data set's recommendations or the paper's choices. Both work without data, a
device or torch. `build.complete` fills in the settings that depend on the data or the device.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from wgan_cli.errors import ConfigError
from wgan_cli.rules import check_rules, own_rates
from wgan_cli.schema import SCHEMAS, SCHEMAS_OF, FilledConfig, Recommended, TrainConfig, traits
from wgan_cli.schema.root import FilledDecay
from wgan_cli.schema.traits import TRAITS
from wgan_cli.validation import flatten, is_writable, typed

# The config groups that define the training. Each of them takes one option. The group `logger`,
# which takes any number of options, is not listed.
GROUPS = ("dataset", "model", "loss", "constraint", "optimizer")

# From arXiv 1701.07875, Algorithm 1, which specifies no number of steps.
PAPER_CLIP = 0.01
PAPER_N_CRITIC = 5
DEFAULT_STEPS = 10_000
DEFAULT_LATENT_DIM = 64

T = TypeVar("T")


def validate(composed: DictConfig | dict[str, Any]) -> TrainConfig:
    """Check the types, keys and ranges of a composed config.

    Return the typed config, in which each group is a plain dict. Raises `ConfigError` with the key,
    its value and the allowed values. `rules.check_rules` later checks combinations of settings.
    """
    plain = _plain(composed)
    nodes = {group: plain.pop(group, None) for group in GROUPS}
    for group, node in nodes.items():
        if node is None:
            raise ConfigError(f"{group}: nothing is chosen; wgan-train --help lists the options.")
        nodes[group] = _checked_group(group, node)
    nodes["logger"] = _checked_loggers(plain.pop("logger", None))
    root: TrainConfig = typed(TrainConfig, plain, "")
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?|mps", root.device):
        raise ConfigError(f"device must be auto, cpu, cuda, cuda:N or mps, not {root.device}.")
    return dataclasses.replace(root, **nodes)


def fill(config: TrainConfig) -> tuple[FilledConfig, list[str]]:
    """Fill in the settings left at null; return the filled config and a note for each value.

    The data set's recommendation is used if there is one, else the paper's choice. A note gives
    the value and its source. Raises `ConfigError` if the resulting settings do not work together.
    `machine` and `build` later choose the settings that depend on the machine or the data.
    """
    notes: list[str] = []
    advice = config.dataset.get("recommended") or {}
    by_dataset = f"recommended for {config.dataset.get('name', 'this data set')}"

    def choose(key: str, typed: T | None, recommended: T | None, default: T, why: str) -> T:
        if typed is not None:
            return typed
        value, reason = (default, why) if recommended is None else (recommended, by_dataset)
        notes.append(f"{key}={value} ({reason})")
        return value

    steps = choose("steps", config.steps, advice.get("steps"), DEFAULT_STEPS, "default")
    latent_dim = choose(
        "latent_dim", config.latent_dim, advice.get("latent_dim"), DEFAULT_LATENT_DIM, "default"
    )
    n_critic = choose(
        "n_critic", config.n_critic, advice.get("n_critic"), PAPER_N_CRITIC, "the paper's"
    )
    clip, optimizer = config.clip, dict(config.optimizer)
    if traits("constraint", config.constraint).takes_clip:
        clip = choose("clip", clip, advice.get("clip"), PAPER_CLIP, "the paper's")
    if "lr" in optimizer and not own_rates(config):
        name = optimizer.get("name", "")
        recommended, usual = (advice.get("lr") or {}).get(name), traits("optimizer", optimizer)
        optimizer["lr"] = choose(
            "optimizer.lr", optimizer["lr"], recommended, usual.default_lr, usual.default_lr_source
        )
        if optimizer["lr"] is None:
            raise ConfigError("optimizer.lr: no rate is known for this optimizer; type one.")
    ema = choose("ema", config.ema, advice.get("ema"), 0.0, "the paper's")
    kind = choose("decay.kind", config.decay.kind, advice.get("decay"), "none", "the paper's")
    decay_steps = steps if config.decay.steps is None and kind != "none" else config.decay.steps
    filled = FilledConfig(
        **settings_below(dataclasses.replace(config, clip=clip, optimizer=optimizer), FilledConfig),
        steps=steps,
        latent_dim=latent_dim,
        n_critic=n_critic,
        ema=ema,
        decay=FilledDecay(kind=kind, steps=decay_steps),
    )
    check_rules(filled)
    return filled, notes


def settings_below(config: TrainConfig, stage: type[TrainConfig]) -> dict[str, Any]:
    """Return the settings of `config`, without those that the subclass `stage` declares again."""
    return {key: value for key, value in vars(config).items() if key not in stage.__annotations__}


def refuse_missing_packages(config: TrainConfig) -> None:
    """Raise `ConfigError` if the package of a `_target_` is not installed.

    This function imports nothing. Any other mistake in a `_target_` raises an error when the
    component is built.
    """
    nodes = {group: getattr(config, group) for group in GROUPS if group != "model"}
    nodes |= {f"model.{network}": config.model[network] for network in ("generator", "critic")}
    nodes |= {f"logger.{name}": node for name, node in config.logger.items()}
    for path, node in nodes.items():
        package = node["_target_"].partition(".")[0]
        if not package.isidentifier() or importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"{path}._target_={node['_target_']} cannot be imported: there is no package"
                f" {package!r}."
            )


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """Return the config as plain dicts, lists and numbers, as `config.yaml` stores it."""
    return dataclasses.asdict(config)


def configs_folder() -> Path:
    """Return the folder `configs`: inside an installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def _plain(composed: DictConfig | dict[str, Any]) -> dict[str, Any]:
    if not isinstance(composed, DictConfig):
        return dict(composed)
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: a value is needed.") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}.") from None
    assert isinstance(plain, dict)
    for key, value in flatten(plain).items():
        if not is_writable(f"{key}{value}"):
            raise ConfigError(f"{key}={value!a}: it holds characters that no file can hold.")
    return {str(key): value for key, value in plain.items()}


def _checked_group(group: str, node: Any) -> dict[str, Any]:
    if not isinstance(node, dict):
        raise ConfigError(f"{group}={node!r} is no component; wgan-train --help lists the options.")
    if group != "model":
        return _checked_component(group, node)
    for key in node:
        if key not in ("name", "generator", "critic"):
            raise ConfigError(
                f"model.{key} is no setting: a model has a name, a generator and a critic."
            )
    name = node.get("name", "")
    if isinstance(name, dict | list | None) or (name == "" and "name" in node):
        raise ConfigError(f"model.name must be text, not {name or 'empty'}.")
    checked: dict[str, Any] = {"name": str(name)}
    for network in ("generator", "critic"):
        if not isinstance(node.get(network), dict):
            raise ConfigError(f"model.{network}: a network with a _target_ is needed.")
        checked[network] = _checked_component(f"model.{network}", node[network])
    # A user's own model may have no name.
    checked["name"] = checked["name"] or checked["generator"]["_target_"]
    return checked


def _checked_loggers(node: Any) -> dict[str, Any]:
    """Return a dict from logger names to their checked settings; it is empty for `logger=none`."""
    if not isinstance(node, dict | None):
        raise ConfigError(f"logger={node!r} is no logger; wgan-train --help lists the options.")
    checked = {}
    for name, settings in (node or {}).items():
        if not isinstance(settings, dict):
            raise ConfigError(
                f"logger.{name} is no setting: under logger each logger has its settings below its"
                " own name, as in logger.tensorboard._target_."
            )
        checked[str(name)] = _checked_component(f"logger.{name}", settings)
    return checked


def _checked_component(path: str, node: dict[str, Any]) -> dict[str, Any]:
    target = node.get("_target_")
    if not isinstance(target, str) or not target:
        raise ConfigError(f"{path}._target_: the class or function to build is needed.")
    group = path.partition(".")[0]
    if target in SCHEMAS and target not in SCHEMAS_OF[group]:
        raise ConfigError(f"{path}._target_={target} is made for another group than {group}.")
    if target in SCHEMAS:
        return dataclasses.asdict(typed(SCHEMAS[target], node, path))
    own = dict(node)
    stated = own.get("traits")
    if stated is not None:
        if not isinstance(stated, dict):
            raise ConfigError(f"{path}.traits must hold traits, as name: value, not {stated}.")
        known = TRAITS.get("network" if group == "model" else group)
        if known is None:
            raise ConfigError(f"{path}.traits: a {group} has no traits; leave it out.")
        checked = dataclasses.asdict(typed(known, stated, f"{path}.traits"))
        own["traits"] = {trait: checked[trait] for trait in stated}
    if path == "dataset":
        advice = own.get("recommended") or {}
        if not isinstance(advice, dict):
            names = ", ".join(field.name for field in dataclasses.fields(Recommended))
            raise ConfigError(f"dataset.recommended holds settings ({names}); {advice} is none.")
        own["recommended"] = dataclasses.asdict(typed(Recommended, advice, "dataset.recommended"))
    return own
