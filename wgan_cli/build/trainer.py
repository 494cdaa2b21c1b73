"""Build the loggers and callbacks of a run, and the trainer with its networks and optimizers."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import torch

from wgan_cli.acceleration.step_graphs import MOST_UPDATES, StepGraphs
from wgan_cli.build.data import build_evaluation, classes_of, data_facts
from wgan_cli.build.instantiation import built
from wgan_cli.build.networks import (
    build_constraint,
    build_critic,
    build_generator,
    build_optimizer,
    facts_of,
    log_clipped_batch_norm,
    refuse_misfit,
    trained_network,
)
from wgan_cli.config import as_dict
from wgan_cli.constraints import Constraint
from wgan_cli.data.dataset import Dataset
from wgan_cli.data.feeds import StagedFeed
from wgan_cli.distributed.process_group import ALONE, SingleProcess
from wgan_cli.errors import ConfigError
from wgan_cli.loggers import Logger
from wgan_cli.randomness import Draws, Stream
from wgan_cli.rules import refuse_pair
from wgan_cli.run_folder import RunFolder
from wgan_cli.schema import RunConfig, TrainConfig, traits
from wgan_cli.stop_signals import StopSignals
from wgan_cli.training.callbacks.checkpoints import Checkpoints
from wgan_cli.training.callbacks.loggers import Loggers
from wgan_cli.training.callbacks.profile import Profile
from wgan_cli.training.callbacks.progress import Progress
from wgan_cli.training.callbacks.protocol import Cadence, Callback
from wgan_cli.training.callbacks.record import Record
from wgan_cli.training.callbacks.sample_pictures import SamplePictures, WeightHistograms
from wgan_cli.training.class_sampler import ClassSampler
from wgan_cli.training.distributed_trainers import (
    DistributedUpdates,
    FollowerTrainer,
    LeaderTrainer,
)
from wgan_cli.training.rollback import Rollback
from wgan_cli.training.schedule import CriticSchedule, LearningRateDecay
from wgan_cli.training.step_inputs import StagedInputs, StepInputs
from wgan_cli.training.trainer import Trainer
from wgan_cli.training.updates import Updates

log = logging.getLogger(__name__)


def build_loggers(config: TrainConfig) -> dict[str, Logger]:
    """Return the loggers by name. Raise `ConfigError` if a class is not a `Logger`."""
    loggers = {name: built(f"logger.{name}", node) for name, node in config.logger.items()}
    for name, logger in loggers.items():
        if not isinstance(logger, Logger):
            raise ConfigError(
                f"logger.{name}._target_={config.logger[name]['_target_']} is no logger: derive it"
                " from wgan_cli.loggers.Logger."
            )
    return loggers


def build_callbacks(
    config: RunConfig,
    folder: RunFolder,
    dataset: Dataset,
    loggers: Mapping[str, Logger],
    *,
    first: bool,
) -> list[Callback]:
    """Return the callbacks of a run. `first` is true in a new run, false in a resumed one."""
    settings = as_dict(config)
    facts = {
        "config": settings,
        "sample_shape": list(dataset.sample_shape),
        "classes": classes_of(config, dataset),
        "data": data_facts(config, dataset),
    }
    record = Record(folder)
    labels = None if dataset.labels is None else dataset.labels.held_out
    # Loggers come after the callbacks that add measurements; checkpoints come after the loggers.
    return [
        record,
        SamplePictures(folder, dataset.held_out, labels, first=first),
        WeightHistograms(),
        Loggers(loggers, folder.path, settings, record.final, first=first),
        Progress(),
        Checkpoints(folder, facts, config.keep_every, from_start=config.on_divergence != "stop"),
        *([Profile(folder)] if config.profile else []),
    ]


def build_rollback(config: TrainConfig, folder: RunFolder) -> Rollback | None:
    """Return the rollback for divergence; None if `on_divergence` is "stop"."""
    if config.on_divergence == "stop":
        return None
    return Rollback(folder.checkpoints, config.rollback.times, config.rollback.lr_factor)


def build_trainer(
    config: RunConfig,
    dataset: Dataset,
    device: torch.device,
    ranks: SingleProcess = ALONE,
    *,
    callbacks: Sequence[Callback] = (),
    rollback: Rollback | None = None,
    signals: StopSignals | None = None,
) -> Trainer:
    """Return the trainer of a run. Call `fit` at once, or load a checkpoint first.

    Raises a `WganError` if parts of the config do not fit together. Only rank 0 has an evaluation.
    """
    shape, classes = dataset.sample_shape, classes_of(config, dataset)
    constraint = build_constraint(config)
    evaluation = build_evaluation(config, dataset, constraint, device) if ranks.leads else None
    updates = _build_updates(config, constraint, shape, classes, device, ranks)
    inputs = _build_inputs(config, dataset, updates)
    labels = dataset.labels
    kind = Trainer if ranks.world == 1 else LeaderTrainer if ranks.leads else FollowerTrainer
    return kind(
        updates,
        inputs,
        graphs=_build_graphs(config, inputs, updates),
        steps=config.steps,
        batch_size=config.batch_size,
        latent_dim=config.latent_dim,
        seed=config.seed,
        decay=LearningRateDecay(config.decay.kind, config.decay.steps),
        ema_decay=config.ema,
        cadence=Cadence(
            config.log_every, config.sample_every, config.checkpoint_every, config.eval_every
        ),
        evaluation=evaluation,
        classes=ClassSampler(labels.train, classes, device) if labels and classes else None,
        callbacks=callbacks,
        rollback=rollback,
        signals=signals or StopSignals(),
    )


def _build_inputs(config: RunConfig, dataset: Dataset, updates: Updates) -> StepInputs:
    """Return the inputs of the steps. On CUDA they are staged, if the feed supports this."""
    warmup, device, shard = config.critic_warmup, updates.device, updates.ranks.shard
    schedule = CriticSchedule(config.n_critic, warmup.steps, warmup.n_critic, warmup.every)
    feed = dataset.feed(config.batch_size, config.seed, device, shard)
    small = device.type == "cuda" and schedule.most_updates <= MOST_UPDATES
    if not small or not isinstance(feed, StagedFeed):
        return StepInputs(feed, schedule, config.seed, shard)
    optimizers = updates.critic_optimizer, updates.generator_optimizer
    return StagedInputs(
        *(feed, schedule, config.seed, shard, device),
        log_every=config.log_every,
        numbers=config.batch_size // shard.world * math.prod(dataset.sample_shape),
        groups=sum(len(optimizer.param_groups) for optimizer in optimizers),
    )


def _build_graphs(config: RunConfig, inputs: StepInputs, updates: Updates) -> StepGraphs | None:
    """Return the CUDA graphs of the steps; None if the steps run kernel by kernel."""
    if updates.device.type != "cuda" or config.graphs is False or updates.ranks.world > 1:
        return None
    if not isinstance(inputs, StagedInputs):
        log.info(
            "No CUDA graphs: steps with more than %d critic updates run kernel by kernel, as do"
            " those on a data set whose feed is not a StagedFeed.",
            MOST_UPDATES,
        )
        return None
    return StepGraphs((updates.critic_optimizer, updates.generator_optimizer))


def _build_updates(
    config: RunConfig,
    constraint: Constraint,
    shape: Sequence[int],
    classes: int | None,
    device: torch.device,
    ranks: SingleProcess,
) -> Updates:
    with Draws(config.seed, Stream.GENERATOR_WEIGHTS).global_seed():
        generator = build_generator(config.model, config.latent_dim, shape, classes).to(device)
    with Draws(config.seed, Stream.CRITIC_WEIGHTS).global_seed():
        critic = build_critic(config, constraint, shape, classes).to(device)
    refuse_pair(config, facts_of(critic))
    if not all(traits("network", config.model[n]).checks_shapes for n in ("generator", "critic")):
        refuse_misfit(generator, critic, config.latent_dim, shape, classes)
    log_clipped_batch_norm(config, critic)
    trained_generator = trained_network(config, "generator", generator)
    trained_critic = trained_network(config, "critic", critic, penalised=constraint.has_penalty)
    updates_class = Updates if ranks.world == 1 else DistributedUpdates
    keeps_finite = traits("optimizer", config.optimizer).keeps_finite
    updates = updates_class(
        trained_generator,
        trained_critic,
        build_optimizer(config.optimizer, "generator", trained_generator.optimizer_parameters),
        build_optimizer(config.optimizer, "critic", trained_critic.optimizer_parameters),
        built("loss", config.loss, optional={"name"}),
        constraint,
        grad_clip=(config.grad_clip.critic, config.grad_clip.generator),
        keeps_finite={"generator": keeps_finite, "critic": keeps_finite},
        generator_needs_real_scores=traits("loss", config.loss).needs_real_scores,
        ranks=ranks,
    )
    if updates.penalty_in_tf32:
        log.info("The penalty is computed in TF32, because precision=bf16; fp32 leaves it exact.")
    trained_generator.log_autocast("generator")
    trained_critic.log_autocast("critic")
    if config.compile:
        latent = torch.zeros(config.batch_size // ranks.world, config.latent_dim, device=device)
        labels = None if classes is None else latent.new_zeros(len(latent), dtype=torch.int64)
        trained_generator.compile("generator", latent, labels)
        trained_critic.compile("critic", latent.new_zeros(len(latent), *shape), labels)
    return updates
