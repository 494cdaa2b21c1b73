"""When a run is measured, drawn and saved, and what a callback gets to see of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wgan_cli.evaluation.evaluation import EvaluationResult
    from wgan_cli.training.trainer import Trainer


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
class Point:
    """What is due after a step, and what was measured there: curves by tag, and all findings."""

    step: int
    log: bool = False
    sample: bool = False
    save: bool = False
    evaluate: bool = False
    values: dict[str, float] = field(default_factory=dict)
    findings: EvaluationResult | None = None

    @property
    def anything(self) -> bool:
        """Whether the step is more than a step."""
        return self.log or self.sample or self.save or self.evaluate


class Callback:
    """What watches a run. It never changes what is trained.

    `phase` names what it does for a profiler.
    """

    phase = "log"

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step of this process; `trainer.step` are done already."""

    def on_step(self, trainer: Trainer, point: Point) -> None:
        """After every step, most of which have nothing due."""

    def on_rollback(self, trainer: Trainer) -> None:
        """The run has diverged and gone back to the checkpoint of `trainer.step`."""

    def on_stop(self, trainer: Trainer) -> None:
        """The run was asked to stop and is going to; a step or its measuring may be half done."""

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        """After the last step, or when the run ends by an error; a run may be half-made then."""
