"""The only place that turns config into objects, and the only one that calls `instantiate`."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from torch import nn

from wgan_cli.config import as_dict, no_pixels
from wgan_cli.constraints import NORMALIZATION, WeightClipping, batch_norm_layers
from wgan_cli.data.dataset import Dataset, held_out_halves
from wgan_cli.errors import CheckpointError, ConfigError, DataError, WganError
from wgan_cli.randomness import Draws, Stream
from wgan_cli.rundir import RunFolder
from wgan_cli.schema import METRICS, PIXEL_METRICS, SCHEMAS, TrainConfig
from wgan_cli.training.callbacks.pictures import SamplePictures
from wgan_cli.training.callbacks.progress import Progress
from wgan_cli.training.callbacks.record import Record
from wgan_cli.training.callbacks.saving import Saving
from wgan_cli.training.callbacks.tensorboard import TensorBoard, open_writer
from wgan_cli.training.evaluation import Evaluation
from wgan_cli.training.points import Cadence, Callback
from wgan_cli.training.schedule import CriticSchedule, LearningRateDecay
from wgan_cli.training.trainer import Trainer
from wgan_cli.training.updates import Updates

log = logging.getLogger(__name__)
# Hydra logs what it raises; the exception is answered here.
logging.getLogger("hydra").addHandler(logging.NullHandler())

# Targets under these names may come from a folder, if they are networks or optimizers at home
# there.
_HOMES = ("wgan_cli", "torch.nn", "torch.optim")


def choose_machine(config: TrainConfig) -> torch.device:
    """Fill in device, threads, precision and compile, and set torch up for them.

    The table behind `precision=auto` and `compile=null` is fixed: fp32 and no compiling on every
    device. fp32 never uses TF32.
    """
    if config.device == "auto":
        config.device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(config.device)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            there = f"there are {count}, counted from 0" if count else "none is available here"
            raise ConfigError(f"device={config.device}: no such CUDA device; {there}.")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    config.threads = torch.get_num_threads()
    if config.precision == "auto":
        config.precision = "fp32"
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    if config.compile and device.type == "cpu" and not _cpp_compiler():
        log.info("compile=true needs a C++ compiler and none was found: running without compiling.")
        config.compile = False
    config.compile = bool(config.compile)
    return device


def build_dataset(config: TrainConfig) -> Dataset:
    """The data set, read or drawn. Raises `DataError`."""
    node = {key: value for key, value in config.dataset.items() if key != "recommended"}
    try:
        dataset: Dataset = _build("dataset", node, optional={"name"})
    except OSError as error:
        name = node.get("name") or node["_target_"]
        raise DataError(f"{name} cannot be read: {error}.") from error
    return dataset


def build_generator(model: dict[str, Any], latent_dim: int, shape: Sequence[int]) -> nn.Module:
    """The generator of a model's config for samples of this shape, on the CPU."""
    network: nn.Module = _build(
        "model.generator", model["generator"], latent_dim=latent_dim, sample_shape=tuple(shape)
    )
    return network


def build_trainer(config: TrainConfig, dataset: Dataset, device: torch.device) -> Trainer:
    """Everything that trains, ready to `fit` or to `load` a checkpoint first.

    Fills in `eval_samples`. Raises a `WganError` where parts do not fit together.
    """
    feed = dataset.feed(config.batch_size, config.seed, device)
    real, other_real = held_out_halves(dataset, config.eval_samples)
    config.eval_samples = len(real)
    shape = dataset.sample_shape
    _choose_metrics(config, images=len(shape) == 3)
    with Draws(config.seed, Stream.GENERATOR_WEIGHTS).global_seed():
        generator = build_generator(config.model, _given(config.latent_dim), shape).to(device)
    constraint = _build("constraint", config.constraint, optional={"name"}, clip=config.clip)
    with Draws(config.seed, Stream.CRITIC_WEIGHTS).global_seed():
        critic = _build("model.critic", config.model["critic"], sample_shape=shape).to(device)
        critic = constraint.wrap(critic)
    _refuse_idle_exemption(constraint, critic)
    _mention_clipped_batch_norm(constraint, critic)
    updates = Updates(
        generator,
        critic,
        _build_optimizer(config.optimizer, "generator", generator),
        _build_optimizer(config.optimizer, "critic", critic),
        _build("loss", config.loss, optional={"name"}),
        constraint,
        bf16=config.precision == "bf16",
    )
    warmup = config.critic_warmup
    trainer = Trainer(
        updates,
        feed,
        steps=_given(config.steps),
        batch_size=config.batch_size,
        latent_dim=_given(config.latent_dim),
        seed=config.seed,
        schedule=CriticSchedule(
            _given(config.n_critic), warmup.steps, warmup.n_critic, warmup.every
        ),
        decay=LearningRateDecay(_given(config.decay.kind), config.decay.steps),
        ema=_given(config.ema),
        cadence=Cadence(
            config.log_every, config.sample_every, config.checkpoint_every, config.eval_every
        ),
        evaluation=Evaluation(
            _given(config.metrics),
            real,
            other_real,
            _given(config.latent_dim),
            config.seed,
            device,
        ),
    )
    if config.compile:
        generator.compile()
        critic.compile()
    return trainer


def build_callbacks(
    config: TrainConfig, folder: RunFolder, dataset: Dataset, *, done: int, first: bool
) -> list[Callback]:
    """What watches a run of which `done` steps are done; `first` where its folder is new."""
    settings = as_dict(config)
    writer = open_writer(str(folder.tensorboard), done)
    facts = {"config": settings, "sample_shape": list(dataset.sample_shape)}
    # Saving goes last: a checkpoint stands for everything that was written up to its step.
    return [
        Record(folder),
        TensorBoard(writer, settings, first=first),
        SamplePictures(folder, writer, dataset.held_out, first=first),
        Progress(),
        Saving(folder, facts),
    ]


def check_trusted(config: dict[str, Any], trusted: Sequence[str]) -> None:
    """Refuse targets that a folder's config may not name. Raises `CheckpointError`.

    Allowed are what the shipped configs name, networks and optimizers at home in wgan_cli, torch.nn
    or torch.optim, and whatever lies under a prefix the user trusts.
    """
    for target in _targets(config):
        if target in SCHEMAS or any(_under(target, prefix) for prefix in trusted):
            continue
        if not _at_home(target):
            raise CheckpointError(
                f"The run's config names {target}, which is not part of wgan-train. If you trust"
                f" that code, add --trust {target.rpartition('.')[0] or target}."
            )


def _under(target: str, prefix: str) -> bool:
    return target == prefix or target.startswith(prefix + ".")


def _at_home(target: str) -> bool:
    if not any(_under(target, home) for home in _HOMES):
        return False
    try:
        found = get_object(target)
    except Exception:
        return False
    return (
        inspect.isclass(found)
        and issubclass(found, nn.Module | torch.optim.Optimizer)
        and any(_under(found.__module__, home) for home in _HOMES)
    )


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)


def _build(
    path: str,
    node: dict[str, Any],
    *,
    optional: frozenset[str] | set[str] = frozenset(),
    **facts: Any,
) -> Any:
    """The object that a config node names; `facts` it does not ask for are left out when optional.

    `clip` and the keys in `optional` are given only to a target whose signature has them.
    """
    make, accepted = _maker(path, node)
    settings = {k: v for k, v in node.items() if k not in optional or accepted(k)}
    facts = {key: value for key, value in facts.items() if key != "clip" or accepted(key)}
    return _call(path, settings, make, **facts)


def _maker(path: str, node: dict[str, Any]) -> tuple[Callable[..., Any], Callable[[str], bool]]:
    target = node["_target_"]
    try:
        made = get_object(target)
    except Exception as error:
        reason = error.__cause__ or error
        raise ConfigError(f"{path}._target_={target} cannot be imported: {reason}") from error
    if not callable(made):
        raise ConfigError(f"{path}._target_={target} is neither a class nor a function.")
    parameters = inspect.signature(made).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return made, lambda key: open_ended or key in parameters


def _call(
    path: str, settings: dict[str, Any], make: Callable[..., Any], *arguments: Any, **facts: Any
) -> Any:
    words = {key: value for key, value in settings.items() if key != "_target_"}
    try:
        inspect.signature(make).bind(*arguments, **words, **facts)
    except TypeError as error:
        raise ConfigError(f"{path} ({settings['_target_']}): {error}.") from None
    try:
        partial = instantiate(settings, _partial_=True, _convert_="all")
        return partial(*arguments, **facts)
    except WganError:
        raise
    except (HydraException, TypeError, ValueError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, WganError):
            raise cause from None
        raise ConfigError(f"{path} ({settings['_target_']}): {cause}") from error


def _build_optimizer(
    node: dict[str, Any], network_name: str, network: nn.Module
) -> torch.optim.Optimizer:
    apart = {"name", "critic", "generator"}
    settings = {key: value for key, value in node.items() if key not in apart}
    own = node.get(network_name) or {}
    settings.update({key: value for key, value in own.items() if value is not None})
    make, accepted = _maker("optimizer", settings)
    if accepted("fused") and settings["_target_"] in SCHEMAS:
        settings["fused"] = True
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer = _call("optimizer", settings, make, parameters)
    return optimizer


def _choose_metrics(config: TrainConfig, *, images: bool) -> None:
    """Everything that applies where nothing is chosen; refuses pixel metrics of points."""
    if config.metrics is None:
        config.metrics = [tag for tag in METRICS if images or tag not in PIXEL_METRICS]
    for tag in config.metrics:
        if tag in PIXEL_METRICS and not images:
            raise ConfigError(no_pixels(tag, config))


def _refuse_idle_exemption(constraint: Any, critic: nn.Module) -> None:
    exempt = isinstance(constraint, WeightClipping) and constraint.exempt_normalization
    if exempt and not any(isinstance(module, NORMALIZATION) for module in critic.modules()):
        raise ConfigError(
            "constraint.exempt_normalization=true has no effect: the critic has no normalisation"
            " layer. Leave it out, or type model.critic.batch_norm=true under model=dcgan."
        )


def _mention_clipped_batch_norm(constraint: Any, critic: nn.Module) -> None:
    layers = batch_norm_layers(critic)
    if isinstance(constraint, WeightClipping) and layers and not constraint.exempt_normalization:
        log.info(
            "The critic has BatchNorm (%s): its scales are clipped from 1 to %g, as in the paper."
            " constraint.exempt_normalization=true leaves them out.",
            ", ".join(layers),
            constraint.clip,
        )


def _cpp_compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")


def _given(value: Any) -> Any:
    assert value is not None, "fill() ran before"
    return value
