"""The only place that turns config into objects."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wgan_cli.acceleration.trained_network import TrainedNetwork
from wgan_cli.compatibility import CriticFacts, refuse_pair
from wgan_cli.config import as_dict
from wgan_cli.constraints import (
    Constraint,
    batch_norm_layers,
    has_linear_layers,
    normalization_layers,
)
from wgan_cli.data.dataset import Dataset
from wgan_cli.distributed.process_group import ALONE, SingleProcess
from wgan_cli.errors import ConfigError, DataError
from wgan_cli.evaluation.default_metrics import data_kinds, usual_metrics
from wgan_cli.evaluation.evaluation import Evaluation
from wgan_cli.evaluation.samples import MANY, MANY_WHILE_TRAINING, Reference
from wgan_cli.instantiation import built, called, maker
from wgan_cli.models.shape_check import refuse_misfit
from wgan_cli.randomness import Draws, Stream
from wgan_cli.rules import classless, refuse_metrics_without
from wgan_cli.run_folder import RunFolder
from wgan_cli.schema import TrainConfig, traits
from wgan_cli.stop_signals import StopSignals
from wgan_cli.training.callbacks.pictures import SamplePictures
from wgan_cli.training.callbacks.profile import Profile
from wgan_cli.training.callbacks.progress import Progress
from wgan_cli.training.callbacks.protocol import Cadence, Callback
from wgan_cli.training.callbacks.record import Record
from wgan_cli.training.callbacks.saving import Saving
from wgan_cli.training.callbacks.tensorboard import TensorBoard
from wgan_cli.training.class_sampler import ClassSampler
from wgan_cli.training.distributed_trainers import (
    DistributedUpdates,
    FollowerTrainer,
    LeaderTrainer,
)
from wgan_cli.training.events import Events
from wgan_cli.training.graphed_updates import GraphedUpdates
from wgan_cli.training.rollback import Rollback
from wgan_cli.training.schedule import CriticSchedule, LearningRateDecay
from wgan_cli.training.trainer import Trainer
from wgan_cli.training.updates import Updates

log = logging.getLogger(__name__)


def build_dataset(config: TrainConfig) -> Dataset:
    """The data set, read or drawn. Raises `DataError`."""
    node = {key: value for key, value in config.dataset.items() if key != "recommended"}
    try:
        dataset: Dataset = built("dataset", node, optional={"name"})
    except OSError as error:
        name = node.get("name") or node["_target_"]
        raise DataError(f"{name} cannot be read: {error}.") from error
    return dataset


def build_generator(
    model: dict[str, Any], latent_dim: int, shape: Sequence[int], classes: int | None = None
) -> nn.Module:
    """The generator of a model's config for samples of this shape and classes, on the CPU."""
    return _build_network(
        model, "generator", classes, latent_dim=latent_dim, sample_shape=tuple(shape)
    )


def build_trainer(
    config: TrainConfig,
    dataset: Dataset,
    device: torch.device,
    ranks: SingleProcess = ALONE,
    *,
    evaluation: Evaluation | None = None,
    callbacks: Sequence[Callback] = (),
    rollback: Rollback | None = None,
    signals: StopSignals | None = None,
) -> Trainer:
    """Everything that trains, ready to `fit`, or to load a checkpoint's state first.

    Raises a `WganError` if parts do not fit together. With several ranks only rank 0 evaluates.
    """
    feed = dataset.feed(config.batch_size, config.seed, device, ranks.share)
    shape, classes = dataset.sample_shape, classes_of(config, dataset)
    constraint = build_constraint(config)
    if evaluation is not None:
        evaluation.prepare()
    with Draws(config.seed, Stream.GENERATOR_WEIGHTS).global_seed():
        generator = build_generator(config.model, _given(config.latent_dim), shape, classes)
    with Draws(config.seed, Stream.CRITIC_WEIGHTS).global_seed():
        critic = build_critic(config, constraint, shape, classes)
    generator.to(device)
    critic.to(device)
    refuse_pair(config, facts_of(critic))
    if not all(traits("network", config.model[n]).checks_shapes for n in ("generator", "critic")):
        refuse_misfit(generator, critic, _given(config.latent_dim), shape, classes)
    _mention_clipped_batch_norm(config, critic)
    generator_weights = _weights(config, "generator", generator)
    critic_weights = _weights(config, "critic", critic)
    updates_class: type[Updates] = Updates
    if ranks.world > 1:
        updates_class = DistributedUpdates
    elif config.graphs and device.type == "cuda":
        updates_class = GraphedUpdates
    optimizers = {
        "generator": _build_optimizer(
            config.optimizer, "generator", generator_weights.optimizer_parameters
        ),
        "critic": _build_optimizer(config.optimizer, "critic", critic_weights.optimizer_parameters),
    }
    updates = updates_class(
        generator_weights,
        critic_weights,
        optimizers["generator"],
        optimizers["critic"],
        built("loss", config.loss, optional={"name"}),
        constraint,
        grad_clip=(config.grad_clip.critic, config.grad_clip.generator),
        keeps_finite=dict.fromkeys(optimizers, traits("optimizer", config.optimizer).keeps_finite),
        generator_needs_real_scores=traits("loss", config.loss).needs_real_scores,
        ranks=ranks,
    )
    labels = dataset.labels
    warmup = config.critic_warmup
    kind = Trainer if ranks.world == 1 else LeaderTrainer if ranks.leads else FollowerTrainer
    trainer = kind(
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
        classes=ClassSampler(labels.train, classes, device) if labels and classes else None,
        callbacks=callbacks,
        rollback=rollback,
        signals=signals,
    )
    for name, weights in (("generator", generator_weights), ("critic", critic_weights)):
        weights.log_autocast(name)
    if config.compile:
        rows = config.batch_size // ranks.world
        latent = torch.zeros(rows, _given(config.latent_dim), device=device)
        wanted = None if classes is None else latent.new_zeros(len(latent), dtype=torch.int64)
        generator_weights.compile("generator", latent, wanted)
        critic_weights.compile("critic", latent.new_zeros(len(latent), *shape), wanted)
    return trainer


def build_evaluation(
    config: TrainConfig,
    dataset: Dataset,
    constraint: Constraint,
    device: torch.device,
    *,
    while_training: bool = False,
) -> Evaluation:
    """The evaluation of a run, to be `prepare`d.

    Fills in metrics and sample counts; while training images get smaller ones. Raises
    `ConfigError` for metrics that cannot apply and for more samples than there are.
    """
    fewer = while_training and len(dataset.sample_shape) == 3
    reference = Reference(
        dataset,
        device,
        cache_folder(),
        config.eval_samples,
        config.feature_samples,
        conditional=config.conditional,
        at_most=MANY_WHILE_TRAINING if fewer else MANY,
    )
    config.eval_samples = reference.counts.few
    config.feature_samples = reference.counts.many
    if config.metrics is None:
        config.metrics = usual_metrics(dataset)
    refuse_metrics_without(data_kinds(dataset), config)
    return Evaluation(config.metrics, reference, _given(config.latent_dim), config.seed, constraint)


def build_constraint(config: TrainConfig) -> Constraint:
    """The constraint of a config."""
    takes_clip = traits("constraint", config.constraint).takes_clip
    facts = {"clip": config.clip} if takes_clip else {}
    constraint: Constraint = built("constraint", config.constraint, optional={"name"}, **facts)
    return constraint


def build_critic(
    config: TrainConfig,
    constraint: Constraint,
    shape: Sequence[int],
    classes: int | None = None,
) -> nn.Module:
    """The critic of a config for samples of this shape and classes, constrained, on the CPU."""
    return constraint.wrap(
        _build_network(config.model, "critic", classes, sample_shape=tuple(shape))
    )


def classes_of(config: TrainConfig, dataset: Dataset) -> int | None:
    """How many classes the networks of a conditional run know; None for any other run.

    Raises `ConfigError` where the data have no labels.
    """
    if not config.conditional:
        return None
    labels = dataset.labels
    if labels is None:
        raise classless(config)
    return 1 + int(max(labels.train.max(), labels.held_out.max()))


def build_rollback(config: TrainConfig, folder: RunFolder) -> Rollback | None:
    """What goes back to a run's newest checkpoint where it diverges, if it shall."""
    if config.on_divergence == "stop":
        return None
    return Rollback(folder.checkpoints, config.rollback.times, config.rollback.lr_factor)


def data_facts(config: TrainConfig, dataset: Dataset) -> dict[str, int | None]:
    """What a checkpoint knows a data set by, so that another is noticed when a run goes on."""
    return {
        "training": dataset.training_size,
        "held_out": len(dataset.held_out),
        "classes": classes_of(config, dataset),
    }


def cache_folder() -> Path:
    """Where trained classifiers are kept: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wgan-train"


def build_callbacks(
    config: TrainConfig, folder: RunFolder, dataset: Dataset, *, first: bool
) -> list[Callback]:
    """The callbacks of a run; `first` if its folder is new. They write nothing before its start."""
    settings = as_dict(config)
    writer = Events(folder.tensorboard)
    facts = {
        "config": settings,
        "sample_shape": list(dataset.sample_shape),
        "classes": classes_of(config, dataset),
        "data": data_facts(config, dataset),
    }
    labels, record = dataset.labels, Record(folder)
    # Saving goes last: a checkpoint stands for everything that was written up to its step.
    return [
        record,
        TensorBoard(writer, settings, record.final, first=first),
        SamplePictures(
            folder,
            writer,
            dataset.held_out,
            None if labels is None else labels.held_out,
            first=first,
        ),
        Progress(),
        Saving(folder, facts, config.keep_every, from_start=config.on_divergence == "rollback"),
        *([Profile(folder)] if config.profile else []),
    ]


def _build_network(
    model: dict[str, Any], kind: str, classes: int | None, **facts: Any
) -> nn.Module:
    path, node = f"model.{kind}", model[kind]
    if classes is not None:
        _, accepted = maker(path, node)
        if not accepted("classes"):
            raise ConfigError(
                f"conditional=true: the {kind} of model={model.get('name') or node['_target_']}"
                " knows no classes. Leave it out, or type model=mlp, model=dcgan or model=resnet."
            )
        facts["classes"] = classes
    network: nn.Module = built(path, node, **facts)
    return network


def _weights(config: TrainConfig, name: str, network: nn.Module) -> TrainedNetwork:
    bf16, stated = config.precision == "bf16", traits("network", config.model[name])
    # In float32, channels_last would change the order of additions, and BatchNorm on a CPU would be
    # thirty times less exact.
    if bf16 and stated.channels_last:
        network.to(memory_format=torch.channels_last)
    flat = (
        traits("optimizer", config.optimizer).elementwise
        and traits("constraint", config.constraint).weights_in_place
        and stated.weights_in_place
    )
    return TrainedNetwork(network, flat=flat, bf16=bf16, bf16_copy=stated.bf16_copy)


def facts_of(critic: nn.Module) -> CriticFacts:
    """What the layers of a built critic tell of it."""
    return CriticFacts(
        lipschitz=getattr(critic, "lipschitz_constant", None) is not None,
        batch_norm=", ".join(batch_norm_layers(critic)),
        normalization=", ".join(normalization_layers(critic)),
        has_normalization=bool(normalization_layers(critic)),
        has_linear_layers=has_linear_layers(critic),
    )


def _mention_clipped_batch_norm(config: TrainConfig, critic: nn.Module) -> None:
    """Log that the scales of the critic's BatchNorm are clipped too."""
    layers, clipping = batch_norm_layers(critic), traits("constraint", config.constraint)
    if clipping.takes_clip and layers and not clipping.exempts_normalization:
        log.info(
            "The critic has BatchNorm (%s): its scales are clipped from 1 to %g, as in the paper."
            " constraint.exempt_normalization=true leaves them out.",
            ", ".join(layers),
            config.clip,
        )


def _build_optimizer(
    node: dict[str, Any], network_name: str, parameters: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    not_settings = {"name", "critic", "generator"}
    settings = {key: value for key, value in node.items() if key not in not_settings}
    overrides = node.get(network_name) or {}
    settings.update({key: value for key, value in overrides.items() if value is not None})
    make, _ = maker("optimizer", settings)
    if traits("optimizer", node).fused:
        settings["fused"] = True
    optimizer: torch.optim.Optimizer = called("optimizer", settings, make, parameters)
    return optimizer


def _given(value: Any) -> Any:
    assert value is not None, "fill() ran before"
    return value
