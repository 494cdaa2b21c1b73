"""The base class of callbacks, and the step and trainer that they see."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from wgan_cli.evaluation.evaluation import EvaluationResult
from wgan_cli.loggers import Measurements
from wgan_cli.training.class_sampler import ClassSampler
from wgan_cli.training.rollback import RollbackRecord

# Makes a context for a named phase of a step, which a profiler shows as a range of this name.
Phase = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class Cadence:
    """Steps between log, sample, checkpoint and evaluation points; the last step is all of them."""

    log: int
    sample: int
    checkpoint: int
    evaluate: int

    def point(self, step: int, steps: int) -> Point:
        """What is due once `step` generator updates of `steps` are done."""
        last = step == steps
        return Point(
            step=step,
            log=last or step % self.log == 0,
            sample=last or step % self.sample == 0,
            save=last or step % self.checkpoint == 0,
            evaluate=last or step % self.evaluate == 0,
        )


@dataclass
class Point(Measurements):
    """What is due after a step, and its measurements.

    The trainer and the first callbacks add measurements; loggers and later callbacks read them.
    """

    log: bool = False
    sample: bool = False
    save: bool = False
    evaluate: bool = False
    evaluation: EvaluationResult | None = None

    @property
    def anything(self) -> bool:
        """Whether anything is due."""
        return self.log or self.sample or self.save or self.evaluate


class ObservedTrainer(Protocol):
    """What callbacks may use of the trainer. Only `phase` may be set."""

    phase: Phase
    steps: int  # generator updates in all
    step: int  # generator updates that are done
    inner: int  # critic updates since the last generator update
    seed: int
    device: torch.device
    latent_dim: int
    classes: ClassSampler | None  # in a conditional run
    generator: nn.Module  # samples are drawn from it; the moving average if there is one
    raw_generator: nn.Module | None  # the generator as it is trained, if there is an average
    critic: nn.Module
    rollbacks: list[RollbackRecord]

    @property
    def recorded(self) -> int:
        """The last step that was measured, logged and drawn completely."""

    def state_dict(self) -> dict[str, Any]:
        """The content of a checkpoint."""


class Callback:
    """Watch a run without changing what is trained.

    `phase` names its work in a profiler's trace.
    """

    phase = "log"

    def on_start(self, trainer: ObservedTrainer, point: Point) -> None:
        """Called before the first step of this process, after `trainer.step` steps before it."""

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """Called after every step; usually nothing is due."""

    def on_rollback(self, trainer: ObservedTrainer) -> None:
        """Called after the run diverged and the checkpoint of `trainer.step` was loaded."""

    def on_stop(self, trainer: ObservedTrainer) -> None:
        """Called before a requested stop; a step or its measuring may be half done."""

    def on_end(self, trainer: ObservedTrainer, error: BaseException | None) -> None:
        """Called after the last step, or after an error, even if `on_start` was not reached."""
