"""From a composed config to the settings of a run: checked, filled, and nothing left to guess.

`validate` turns a composed config into typed dataclasses or raises `ConfigError`; `check_rules`
refuses settings that cannot work together; `fill` replaces every null by the data set's
recommendation or the paper's choice. Nothing here needs data, a device or torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from wgan_cli.errors import ConfigError
from wgan_cli.schema import PIXEL_METRICS, SCHEMAS, Recommended, TrainConfig

GROUPS = ("dataset", "model", "loss", "constraint", "optimizer")

# arXiv 1701.07875, Algorithm 1: RMSprop 5e-5, c 0.01, n_critic 5. It gives no number of steps and
# no rate for other optimizers: Adam's is the one of arXiv 1704.00028, Algorithm 1; SGD's is ours.
PAPER_CLIP = 0.01
PAPER_N_CRITIC = 5
PAPER_LEARNING_RATE = {"rmsprop": 5e-5, "adam": 1e-4, "sgd": 1e-2}
DEFAULT_STEPS = 10_000
DEFAULT_WARMUP_N_CRITIC = 100
DEFAULT_LATENT_DIM = 64
CLIPPING = "wgan_cli.constraints.WeightClipping"

# Training parts whose size is a fact known before anything is read.
TRAINING_SIZES = {"digits": 1438, "mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000}

# Shipped sets of points rather than images.
POINT_SETS = ("wgan_cli.data.synthetic.gaussians_ring",)


def validate(composed: DictConfig | dict[str, Any]) -> TrainConfig:
    """Check types, unknown keys and ranges of a composed config.

    Groups come back as plain dicts. Raises `ConfigError` naming the key, what it is and what is
    allowed. Rules between settings are `check_rules`'s.
    """
    plain = _plain(composed)
    groups = {group: plain.pop(group, None) for group in GROUPS}
    for group, node in groups.items():
        if node is None:
            raise ConfigError(f"{group}: nothing is chosen; wgan-train --help lists the options.")
        groups[group] = _checked_group(group, node)
    config: TrainConfig = _typed(TrainConfig, plain, "")
    for group, node in groups.items():
        setattr(config, group, node)
    _check_device_name(config.device)
    return config


def check_rules(config: TrainConfig) -> None:
    """Refuse what cannot work together and what would have no effect. Raises `ConfigError`."""
    clipping = config.constraint["_target_"] == CLIPPING
    if config.clip is not None and not clipping:
        name = config.constraint.get("name", config.constraint["_target_"])
        raise ConfigError(
            f"clip={config.clip} has no effect under constraint={name}: leave clip out, or type"
            " constraint=clip."
        )
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
    for tag in config.metrics or ():
        if tag in PIXEL_METRICS and config.dataset["_target_"] in POINT_SETS:
            raise ConfigError(no_pixels(tag, config))
    name = config.dataset.get("name")
    size = TRAINING_SIZES.get(name) if config.dataset["_target_"] in SCHEMAS else None
    if size is not None and config.batch_size > size:
        raise ConfigError(
            f"batch_size={config.batch_size} is larger than the training part of dataset={name}:"
            f" at most {size}."
        )


def no_pixels(tag: str, config: TrainConfig) -> str:
    """Why a pixel metric is refused."""
    name = config.dataset.get("name", "this data set")
    return f"metrics: {tag} compares images, and {name} has none; leave it out."


def fill(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """A copy in which every null that stands for a recommendation holds its value.

    The data set's recommendation comes first, then the paper's choice; the notes say for each what
    was taken and why. Machine settings (device, threads, precision, compile), `metrics` and
    `eval_samples` depend on what is there and are `build`'s.
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
    if "lr" in config.optimizer and config.optimizer["lr"] is None:
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
        check_rules(config)
    if config.decay.kind != "none" and config.decay.steps is None:
        config.decay.steps = config.steps
    return config, notes


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """The config as plain dicts, lists and numbers, as `config.yaml` and checkpoints hold it."""
    return dataclasses.asdict(config)


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys to leaf values: {"optimizer": {"lr": 1}} gives {"optimizer.lr": 1}."""
    if isinstance(node, dict) and node:
        flat: dict[str, Any] = {}
        for key, value in node.items():
            flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
        return flat
    return {prefix: node}


def nearest(word: str, known: list[str]) -> str:
    """`" Did you mean x?"` for the nearest known word, or an empty string."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:
        last = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
        close = [
            last[match]
            for match in difflib.get_close_matches(word.rsplit(".", 1)[-1], list(last), 1, 0.75)
        ]
    return f" Did you mean {close[0]}?" if close else ""


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
    checked = {"name": node.get("name", "")}
    for network in ("generator", "critic"):
        if not isinstance(node.get(network), dict):
            raise ConfigError(f"model.{network}: a network with a _target_ is needed.")
        checked[network] = _checked_component(f"model.{network}", node[network])
    return checked


def _checked_component(path: str, node: dict[str, Any]) -> dict[str, Any]:
    target = node.get("_target_")
    if not isinstance(target, str) or not target:
        raise ConfigError(f"{path}._target_: the class or function to build is needed.")
    if target in SCHEMAS:
        return dataclasses.asdict(_typed(SCHEMAS[target], node, path))
    own = dict(node)
    if path == "dataset":
        advice = own.get("recommended") or {}
        if not isinstance(advice, dict):
            names = ", ".join(field.name for field in dataclasses.fields(Recommended))
            raise ConfigError(f"dataset.recommended holds settings ({names}); {advice} is none.")
        own["recommended"] = dataclasses.asdict(_typed(Recommended, advice, "dataset.recommended"))
    return own


def _typed(schema: type, node: dict[str, Any], path: str) -> Any:
    """`node` as an instance of the dataclass `schema`, types and ranges checked."""

    def at(key: str) -> str:
        return f"{path}.{key}" if path and key else path or key

    for field in dataclasses.fields(schema):
        given, group = node.get(field.name), _settings_within(field)
        if group is not None and field.name in node:
            if not isinstance(given, dict):
                inner = ", ".join(f.name for f in dataclasses.fields(group))
                raise ConfigError(f"{at(field.name)} holds settings ({inner}); {given} is none.")
        elif str(field.type).startswith("list") and isinstance(given, str):
            raise ConfigError(f"{at(field.name)} must be a list: {field.name}=[{given}].")
    try:
        typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), node))
    except ConfigKeyError as error:
        known = [at(key) for key in flatten(OmegaConf.to_container(OmegaConf.structured(schema)))]
        key = at(str(error.full_key))
        raise ConfigError(f"{key} is no setting.{nearest(key, known)}") from None
    except MissingMandatoryValue as error:
        key = str(error.full_key or "") or str(error).rsplit(" ", 1)[-1]
        raise ConfigError(f"{at(key)}: a value is needed.") from None
    except OmegaConfBaseException as error:
        key = str(error.full_key or "")
        raise ConfigError(_type_message(schema, at(key), key, error)) from None
    _check_ranges(typed, path, node)
    return typed


def _settings_within(field: dataclasses.Field[Any]) -> Any:
    """The dataclass of a setting that holds settings, or None."""
    factory: Any = field.default_factory
    return factory if dataclasses.is_dataclass(factory) else None


def _type_message(schema: type, path: str, key: str, error: Exception) -> str:
    reason = str(error).splitlines()[0].rstrip(".")
    field: Any = None
    owner: Any = schema
    for part in key.split("."):
        field = {f.name: f for f in dataclasses.fields(owner)}.get(part)
        if field is None:
            break
        owner = _settings_within(field) or owner
    words = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "text",
        "list[float]": "a list of numbers",
        "list[str]": "a list of names",
    }
    if field is not None:
        kind, _, optional = str(field.type).partition(" | ")
        if kind in words:
            wanted = words[kind] + (" or null" if optional else "")
            limits = _limits_in_words(field.metadata)
            given = re.search(r"[Vv]alue '(.*?)'", reason)
            shown = f": {reason}"
            if given:
                shown = f", not {'null' if given[1] == 'None' else given[1]}"
            return f"{path} must be {wanted}{', ' + limits if limits else ''}{shown}."
    return f"{path}: {reason}."


def _limits_in_words(limits: Any) -> str:
    words = {"at_least": "at least", "above": "above", "at_most": "at most", "below": "below"}
    if "choices" in limits:
        return "one of " + ", ".join(limits["choices"])
    return " and ".join(f"{words[key]} {value}" for key, value in limits.items())


def _check_ranges(typed: Any, path: str, raw: Any) -> None:
    for field in dataclasses.fields(typed):
        value = getattr(typed, field.name)
        key = f"{path}.{field.name}" if path else field.name
        given = raw.get(field.name) if isinstance(raw, dict) else None
        if dataclasses.is_dataclass(value):
            _check_ranges(value, key, given)
            continue
        if isinstance(given, bool) and isinstance(value, int) and not isinstance(value, bool):
            raise ConfigError(f"{key} must be a number, not {str(given).lower()}.")
        if isinstance(value, dict):
            inner = list(value.values())
        else:
            inner = value if isinstance(value, list) else [value]
        for item in inner:
            if item is not None and not _within(item, field.metadata):
                allowed = _limits_in_words(field.metadata) or "finite"
                hint = (
                    nearest(item, list(field.metadata["choices"])) if isinstance(item, str) else ""
                )
                raise ConfigError(f"{key} must be {allowed}, not {item}.{hint}")
        if field.name == "betas" and value is not None and len(value) != 2:
            raise ConfigError(f"{key} must be two numbers, as in [0.0,0.9], not {value}.")


def _within(value: Any, limits: Any) -> bool:
    if isinstance(value, bool):
        return True
    if isinstance(value, str):
        return value in limits.get("choices", (value,))
    if not isinstance(value, int | float):
        return True
    return (
        math.isfinite(value)
        and value >= limits.get("at_least", -math.inf)
        and value > limits.get("above", -math.inf)
        and value <= limits.get("at_most", math.inf)
        and value < limits.get("below", math.inf)
    )


def _check_device_name(name: str) -> None:
    kind, colon, index = name.partition(":")
    if kind == "cuda" and (not colon or index.isdigit()):
        return
    if name not in ("auto", "cpu"):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, not {name}.")
