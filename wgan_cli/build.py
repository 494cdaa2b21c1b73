"""The only place that turns config into objects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wgan_cli.acceleration.cuda_graphs import CudaGraph
from wgan_cli.acceleration.trained_network import TrainedNetwork
from wgan_cli.config import as_dict
from wgan_cli.constraints import Constraint, mention_clipped_batch_norm, refuse_unfit
from wgan_cli.data.dataset import Dataset
from wgan_cli.distributed.process_group import ALONE, SingleProcess
from wgan_cli.errors import ConfigError, DataError
from wgan_cli.evaluation.default_metrics import data_kinds, usual_metrics
from wgan_cli.evaluation.evaluation import Evaluation
from wgan_cli.evaluation.samples import (
    MAX_FEATURE_SAMPLES,
    MAX_FEATURE_SAMPLES_IN_TRAINING,
    Reference,
)
from wgan_cli.instantiation import built, called, maker
from wgan_cli.models.shape_check import refuse_misfit
from wgan_cli.randomness import Draws, Stream
from wgan_cli.rules import classless, refuse_metrics_without
from wgan_cli.run_folder import RunFolder
from wgan_cli.schema import SCHEMAS, TrainConfig
from wgan_cli.training.callbacks.pictures import SamplePictures
from wgan_cli.training.callbacks.profile import Profile
from wgan_cli.training.callbacks.progress import Progress
from wgan_cli.training.callbacks.protocol import Cadence, Callback
from wgan_cli.training.callbacks.record import Record
from wgan_cli.training.callbacks.saving import Saving
from wgan_cli.training.callbacks.tensorboard import TensorBoard
from wgan_cli.training.class_sampler import ClassSampler
from wgan_cli.training.distributed_trainers import FollowerTrainer, LeaderTrainer
from wgan_cli.training.events import Events
from wgan_cli.training.rollback import Rollback
from wgan_cli.training.schedule import CriticSchedule, LearningRateDecay
from wgan_cli.training.trainer import Trainer
from wgan_cli.training.updates import Updates


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
    config: TrainConfig, dataset: Dataset, device: torch.device, ranks: SingleProcess = ALONE
) -> Trainer:
    """Everything that trains, ready to `fit` or to `load` a checkpoint first.

    Fills in metrics and the evaluations' sample counts. Raises a `WganError` where parts do not fit
    together. Of several ranks only the first can evaluate.
    """
    feed = dataset.feed(config.batch_size, config.seed, device, ranks.shard)
    shape, classes = dataset.sample_shape, classes_of(config, dataset)
    constraint = build_constraint(config)
    max_feature_samples = (
        MAX_FEATURE_SAMPLES_IN_TRAINING if len(shape) == 3 else MAX_FEATURE_SAMPLES
    )
    evaluation = None
    if ranks.leads:
        evaluation = build_evaluation(
            config, dataset, constraint, device, max_feature_samples=max_feature_samples
        )
    with Draws(config.seed, Stream.GENERATOR_WEIGHTS).global_seed():
        generator = build_generator(config.model, _given(config.latent_dim), shape, classes)
    with Draws(config.seed, Stream.CRITIC_WEIGHTS).global_seed():
        critic = build_critic(config, constraint, shape, classes)
    generator.to(device)
    critic.to(device)
    refuse_unfit(constraint, critic)
    if any(config.model[network]["_target_"] not in SCHEMAS for network in ("generator", "critic")):
        refuse_misfit(generator, critic, _given(config.latent_dim), shape, classes)
    mention_clipped_batch_norm(constraint, critic)
    generator_weights = _weights(config, "generator", generator)
    critic_weights = _weights(config, "critic", critic)
    updates = Updates(
        generator_weights,
        critic_weights,
        _build_optimizer(config.optimizer, "generator", generator_weights.optimised),
        _build_optimizer(config.optimizer, "critic", critic_weights.optimised),
        built("loss", config.loss, optional={"name"}),
        constraint,
        grad_clip=(config.grad_clip.critic, config.grad_clip.generator),
        graph=CudaGraph if config.graphs and device.type == "cuda" and ranks.world == 1 else None,
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
    )
    for name, weights in (("generator", generator_weights), ("critic", critic_weights)):
        weights.mention_autocast(name)
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
    max_feature_samples: int = MAX_FEATURE_SAMPLES,
) -> Evaluation:
    """The evaluation of a run, its feature networks made ready.

    Fills in metrics and sample counts, where none is set `max_feature_samples` for features. Raises
    `ConfigError` for metrics that cannot apply and for more samples than there are, `DataError`
    where a feature network cannot be had.
    """
    reference = Reference(
        dataset,
        device,
        cache_folder(),
        config.eval_samples,
        config.feature_samples,
        conditional=config.conditional,
        max_feature_samples=max_feature_samples,
    )
    config.eval_samples = reference.counts.eval_samples
    config.feature_samples = reference.counts.feature_samples
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
    constraint: Constraint = built(
        "constraint", config.constraint, optional={"name"}, clip=config.clip
    )
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
    config: TrainConfig, folder: RunFolder, dataset: Dataset, *, done: int, first: bool
) -> list[Callback]:
    """What watches a run of which `done` steps are done; `first` where its folder is new."""
    settings = as_dict(config)
    # At a first start there is nothing to hide, but TensorBoard then heeds a later one's word too.
    writer = Events(folder.tensorboard, begin=0 if first else done + 1)
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
    bf16 = config.precision == "bf16"
    # In float32 this would add in another order, and BatchNorm on a CPU be thirty times less exact.
    # A user's own network may view its maps in a way that only the usual layout has.
    if bf16 and config.model[name]["_target_"] in SCHEMAS:
        network.to(memory_format=torch.channels_last)
    # What ships does the same to every weight and leaves weights where they are.
    parts = (config.optimizer, config.constraint, config.model[name])
    return TrainedNetwork(
        network, joined=all(part["_target_"] in SCHEMAS for part in parts), bf16=bf16
    )


def _build_optimizer(
    node: dict[str, Any], network_name: str, parameters: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    apart = {"name", "critic", "generator"}
    settings = {key: value for key, value in node.items() if key not in apart}
    own = node.get(network_name) or {}
    settings.update({key: value for key, value in own.items() if value is not None})
    make, accepted = maker("optimizer", settings)
    if accepted("fused") and settings["_target_"] in SCHEMAS:
        settings["fused"] = True
    optimizer: torch.optim.Optimizer = called("optimizer", settings, make, parameters)
    return optimizer


def _given(value: Any) -> Any:
    assert value is not None, "fill() ran before"
    return value
