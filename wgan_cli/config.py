"""From a composed config to the settings of a run: checked, filled, and nothing left to guess.

`validate` turns a composed config into typed dataclasses or raises `ConfigError`; `fill` replaces
every null by the data set's recommendation or the paper's choice. Nothing here
needs data, a device or torch.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from wgan_cli.errors import ConfigError
from wgan_cli.rules import check_rules, own_rates
from wgan_cli.schema import SCHEMAS, SCHEMAS_OF, Recommended, TrainConfig
from wgan_cli.schema.constraints import CLIPPING
from wgan_cli.schema.loggers import SAVED_WITHOUT
from wgan_cli.validation import typed

# The groups that decide what is trained, one option each. `logger` takes any number of options.
GROUPS = ("dataset", "model", "loss", "constraint", "optimizer")

# arXiv 1701.07875, Algorithm 1: RMSprop 5e-5, c 0.01, n_critic 5. It gives no number of steps and
# no rate for other optimizers: Adam's is the one of arXiv 1704.00028, Algorithm 1; SGD's is ours.
PAPER_CLIP = 0.01
PAPER_N_CRITIC = 5
PAPER_LEARNING_RATE = {"rmsprop": 5e-5, "adam": 1e-4, "sgd": 1e-2}
DEFAULT_STEPS = 10_000
DEFAULT_LATENT_DIM = 64


def validate(composed: DictConfig | dict[str, Any]) -> TrainConfig:
    """Check types, unknown keys and ranges of a composed config.

    Groups come back as plain dicts. Raises `ConfigError` naming the key, what it is and what is
    allowed. Rules between settings are `rules.check_rules`'s.
    """
    plain = _plain(composed)
    groups = {group: plain.pop(group, None) for group in GROUPS}
    for group, node in groups.items():
        if node is None:
            raise ConfigError(f"{group}: nothing is chosen; wgan-train --help lists the options.")
        groups[group] = _checked_group(group, node)
    groups["logger"] = _checked_loggers(plain.pop("logger", SAVED_WITHOUT))
    config: TrainConfig = typed(TrainConfig, plain, "")
    for group, node in groups.items():
        setattr(config, group, node)
    _check_device_name(config.device)
    return config


def fill(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """A copy in which every null that stands for a recommendation holds its value.

    The data set's recommendation comes first, then the paper's choice; the notes say for each what
    was taken and why. Machine settings (device, threads, precision, compile), `metrics` and
    the evaluations' sample counts depend on what is there and are `build`'s.
    """
    config = dataclasses.replace(
        config, optimizer=dict(config.optimizer), decay=dataclasses.replace(config.decay)
    )
    notes: list[str] = []
    advice = config.dataset.get("recommended") or {}
    by_dataset = f"recommended for {config.dataset.get('name', 'this data set')}"

    def choose(key: str, recommended: Any, otherwise: Any, why: str) -> Any:
        value, reason = (recommended, by_dataset) if recommended is not None else (otherwise, why)
        notes.append(f"{key}={value} ({reason})")
        return value

    if config.steps is None:
        config.steps = choose("steps", advice.get("steps"), DEFAULT_STEPS, "default")
    if config.latent_dim is None:
        advised = advice.get("latent_dim")
        config.latent_dim = choose("latent_dim", advised, DEFAULT_LATENT_DIM, "default")
    if config.n_critic is None:
        advised = advice.get("n_critic")
        config.n_critic = choose("n_critic", advised, PAPER_N_CRITIC, "the paper's")
    if config.clip is None and config.constraint["_target_"] == CLIPPING:
        config.clip = choose("clip", advice.get("clip"), PAPER_CLIP, "the paper's")
    if "lr" in config.optimizer and config.optimizer["lr"] is None and not own_rates(config):
        name = config.optimizer.get("name", "")
        rate = (advice.get("lr") or {}).get(name)
        if rate is None and name not in PAPER_LEARNING_RATE:
            raise ConfigError("optimizer.lr: no rate is known for this optimizer; type one.")
        why = "the paper's" if name == "rmsprop" else f"default for {name}"
        usual = PAPER_LEARNING_RATE.get(name)
        config.optimizer["lr"] = choose("optimizer.lr", rate, usual, why)
    if config.ema is None:
        config.ema = choose("ema", advice.get("ema"), 0.0, "the paper's")
    if config.decay.kind is None:
        config.decay.kind = choose("decay.kind", advice.get("decay"), "none", "the paper's")
    # What was filled in may have no effect, or go badly, with what was typed.
    check_rules(config)
    if config.decay.kind != "none" and config.decay.steps is None:
        config.decay.steps = config.steps
    return config, notes


def refuse_missing_packages(config: TrainConfig) -> None:
    """Raise `ConfigError` for a target of no installed package, before anything is imported.

    What is wrong within a package shows when it is.
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
    """The config as plain dicts, lists and numbers, as `config.yaml` and checkpoints hold it."""
    return dataclasses.asdict(config)


def configs_folder() -> Path:
    """Where the shipped YAML is: inside the package when installed, beside it in a checkout."""
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
    # A user's own model may have none.
    checked["name"] = checked["name"] or checked["generator"]["_target_"]
    return checked


def _checked_loggers(node: Any) -> dict[str, Any]:
    """Return the loggers' settings by name; an empty dict for `logger=none`."""
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
    if path == "dataset":
        advice = own.get("recommended") or {}
        if not isinstance(advice, dict):
            names = ", ".join(field.name for field in dataclasses.fields(Recommended))
            raise ConfigError(f"dataset.recommended holds settings ({names}); {advice} is none.")
        own["recommended"] = dataclasses.asdict(typed(Recommended, advice, "dataset.recommended"))
    return own


def _check_device_name(name: str) -> None:
    kind, colon, index = name.partition(":")
    if kind == "cuda" and (not colon or (index.isascii() and index.isdigit())):
        return
    if name not in ("auto", "cpu"):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, not {name}.")
