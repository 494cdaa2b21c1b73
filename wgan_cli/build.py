"""The only place that turns config into objects, and the only one that calls `instantiate`."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from torch import nn

from wgan_cli.config import as_dict
from wgan_cli.constraints import NORMALIZATION, Constraint, WeightClipping, batch_norm_layers
from wgan_cli.data.dataset import Dataset
from wgan_cli.errors import ConfigError, DataError, WganError
from wgan_cli.evaluation.choice import data_kinds, usual_metrics
from wgan_cli.evaluation.evaluation import Evaluation
from wgan_cli.evaluation.samples import Reference
from wgan_cli.randomness import Draws, Stream
from wgan_cli.rules import refuse_metrics_without
from wgan_cli.rundir import RunFolder
from wgan_cli.schema import SCHEMAS, TrainConfig
from wgan_cli.training.callbacks.pictures import SamplePictures
from wgan_cli.training.callbacks.progress import Progress
from wgan_cli.training.callbacks.record import Record
from wgan_cli.training.callbacks.saving import Saving
from wgan_cli.training.callbacks.tensorboard import TensorBoard, open_writer
from wgan_cli.training.points import Cadence, Callback
from wgan_cli.training.schedule import CriticSchedule, LearningRateDecay
from wgan_cli.training.trainer import Trainer
from wgan_cli.training.updates import Updates

log = logging.getLogger(__name__)
# Hydra logs what it raises; the exception is answered here.
logging.getLogger("hydra").addHandler(logging.NullHandler())


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

    Fills in metrics and the evaluations' sample counts. Raises a `WganError` where parts do not fit
    together.
    """
    feed = dataset.feed(config.batch_size, config.seed, device)
    shape = dataset.sample_shape
    constraint = build_constraint(config)
    evaluation = build_evaluation(config, dataset, constraint, device)
    with Draws(config.seed, Stream.GENERATOR_WEIGHTS).global_seed():
        generator = build_generator(config.model, _given(config.latent_dim), shape).to(device)
    with Draws(config.seed, Stream.CRITIC_WEIGHTS).global_seed():
        critic = build_critic(config, constraint, shape).to(device)
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
        evaluation=evaluation,
    )
    if config.compile:
        generator.compile()
        critic.compile()
    return trainer


def build_evaluation(
    config: TrainConfig, dataset: Dataset, constraint: Constraint, device: torch.device
) -> Evaluation:
    """The evaluation of a run, its feature networks made ready.

    Fills in metrics and sample counts. Raises `ConfigError` for metrics that cannot apply and for
    more samples than there are, `DataError` where a feature network cannot be had.
    """
    reference = Reference(
        dataset, device, cache_folder(), config.eval_samples, config.feature_samples
    )
    config.eval_samples = reference.counts.few
    config.feature_samples = reference.counts.many
    if config.metrics is None:
        config.metrics = usual_metrics(dataset)
    refuse_metrics_without(data_kinds(dataset), config)
    evaluation = Evaluation(
        config.metrics, reference, _given(config.latent_dim), config.seed, constraint
    )
    evaluation.prepare()
    return evaluation


def build_constraint(config: TrainConfig) -> Constraint:
    """What holds the critic."""
    constraint: Constraint = _build(
        "constraint", config.constraint, optional={"name"}, clip=config.clip
    )
    return constraint


def build_critic(config: TrainConfig, constraint: Constraint, shape: Sequence[int]) -> nn.Module:
    """The critic of a config for samples of this shape, constrained, on the CPU."""
    critic: nn.Module = _build("model.critic", config.model["critic"], sample_shape=tuple(shape))
    return constraint.wrap(critic)


def cache_folder() -> Path:
    """Where trained classifiers are kept: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wgan-train"


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
        Saving(folder, facts, config.keep_every),
    ]


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


def _given(value: Any) -> Any:
    assert value is not None, "fill() ran before"
    return value
