"""The base class of callbacks, and the types of its arguments."""

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

# A function from the name of a phase to a context that a profiler shows as a named range.
Phase = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class Cadence:
    """The intervals in steps at which work is due. All work is also due after the last step."""

    log: int
    sample: int
    checkpoint: int
    evaluate: int

    def next_log(self, step: int, steps: int) -> int:
        """Return the first log point after step `step`; the run has `steps` steps in all."""
        return min(steps, step - step % self.log + self.log)

    def point(self, step: int, steps: int) -> Point:
        """Return a `Point` for step `step` with flags for the work due after it.

        `steps` is the total number of steps. All work is due after the last step.
        """
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
    """The measurements of a step, and flags for the work that is due after it.

    The trainer and the first callbacks add measurements; loggers and later callbacks read them.
    """

    log: bool = False
    sample: bool = False
    save: bool = False
    evaluate: bool = False
    evaluation: EvaluationResult | None = None

    @property
    def anything(self) -> bool:
        """True if anything is due."""
        return self.log or self.sample or self.save or self.evaluate


class ObservedTrainer(Protocol):
    """The attributes of the trainer that callbacks may use. Callbacks may set only `phase`."""

    phase: Phase
    steps: int  # total number of generator updates
    step: int  # number of finished generator updates
    inner: int  # critic updates since the last generator update
    seed: int
    device: torch.device
    latent_dim: int
    classes: ClassSampler | None  # None unless the run is conditional
    generator: nn.Module  # generates the samples; the moving average if there is one
    raw_generator: nn.Module | None  # the trained generator if `generator` is an average
    critic: nn.Module
    rollbacks: list[RollbackRecord]

    @property
    def recorded(self) -> int:
        """The last step whose measurements and pictures are complete."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint stores."""


class Callback:
    """Observe a run without changing the training. `phase` is the name in a profiler trace."""

    phase = "log"

    def on_start(self, trainer: ObservedTrainer, point: Point) -> None:
        """Called before training starts. After a resume, `trainer.step` is the resumed step."""

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """Called after every step.

        The flags of `point` say what to do after this step (log, sample, save, evaluate); usually
        all are False.
        """

    def on_rollback(self, trainer: ObservedTrainer) -> None:
        """Called after the run diverged and the checkpoint of `trainer.step` was loaded."""

    def on_stop(self, trainer: ObservedTrainer) -> None:
        """Called before a requested stop. The step or its measurements may be incomplete."""

    def on_end(self, trainer: ObservedTrainer, error: BaseException | None) -> None:
        """Called after the last step, or after `error`, even if `on_start` was not called."""
