"""From a composed config to the settings of a run: checked, filled, and nothing left to guess.

`validate` turns a composed config into typed dataclasses or raises `ConfigError`; `check_rules`
refuses settings that cannot work together; `fill` replaces every null by the data set's
recommendation or the paper's choice. Nothing here needs data, a device or torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from wgan_cli.checking import typed
from wgan_cli.errors import ConfigError
from wgan_cli.schema import METRICS, SCHEMAS, Recommended, TrainConfig

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
LIPSCHITZ_CRITIC = "wgan_cli.models.lipschitz.Critic"

# Training parts whose size is a fact known before anything is read.
TRAINING_SIZES = {"digits": 1438, "mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000}

# What the samples of a shipped data set have, for the metrics that need it.
_IMAGES = frozenset({"samples", "images", "labels"})
DATA_KINDS = {
    "wgan_cli.data.images.digits": _IMAGES,
    "wgan_cli.data.images.torchvision_images": _IMAGES,
    "wgan_cli.data.synthetic.gaussians_ring": frozenset({"samples", "modes"}),
    "wgan_cli.data.synthetic.gaussians_grid": frozenset({"samples", "modes"}),
    "wgan_cli.data.synthetic.parallel_lines": frozenset({"samples"}),
}

_NEEDED = {
    "images": "images",
    "labels": "images of 8x8 or more with labels of two classes or more",
    "modes": "Gaussian modes",
}


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
    config: TrainConfig = typed(TrainConfig, plain, "")
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
    if clipping and config.model["critic"]["_target_"] == LIPSCHITZ_CRITIC:
        name = config.model.get("name", LIPSCHITZ_CRITIC)
        raise ConfigError(
            f"model={name} has a critic that is 1-Lipschitz by construction, and clipping would cut"
            " the numbers its weights are made of: type constraint=none."
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
    if config.keep_every is not None and config.keep_every % config.checkpoint_every:
        raise ConfigError(
            f"keep_every={config.keep_every} must be a multiple of checkpoint_every="
            f"{config.checkpoint_every}: other steps have no checkpoint."
        )
    kinds = DATA_KINDS.get(config.dataset["_target_"])
    if kinds is not None:
        refuse_metrics_without(kinds, config)
    name = config.dataset.get("name")
    size = TRAINING_SIZES.get(name) if config.dataset["_target_"] in SCHEMAS else None
    if size is not None and config.batch_size > size:
        raise ConfigError(
            f"batch_size={config.batch_size} is larger than the training part of dataset={name}:"
            f" at most {size}."
        )


def refuse_metrics_without(kinds: Collection[str], config: TrainConfig) -> None:
    """Raise `ConfigError` where a metric needs what the data have not (`schema.METRICS`)."""
    for tag in config.metrics or ():
        if METRICS[tag] not in kinds:
            name = config.dataset.get("name", "this data set")
            raise ConfigError(
                f"metrics: {tag} needs {_NEEDED[METRICS[tag]]}, and {name} has none; leave it out."
            )


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
