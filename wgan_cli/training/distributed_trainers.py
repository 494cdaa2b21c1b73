"""The training loop with several processes: that of rank 0 and that of the other ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from wgan_cli.distributed.process_group import Instruction, ProcessGroup
from wgan_cli.errors import DivergedError, RankError, WganError
from wgan_cli.training.trainer import Trainer
from wgan_cli.training.updates import Updates


class DistributedUpdates(Updates):
    """`Updates` that restore BatchNorm's running statistics if another rank is lost in an update.

    The run is then saved as it was before that update, which is repeated after a resume.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        modules = (*self.generator.modules(), *self.critic.modules())
        self._statistics = [b for m in modules if isinstance(m, _BatchNorm) for b in m.buffers()]

    def critic_update(self, *arguments: Any, **options: Any) -> Tensor:
        """As `Updates.critic_update`."""
        with self._statistics_restored_on_failure():
            return super().critic_update(*arguments, **options)

    def generator_update(self, *arguments: Any, **options: Any) -> Tensor:
        """As `Updates.generator_update`."""
        with self._statistics_restored_on_failure():
            return super().generator_update(*arguments, **options)

    @contextmanager
    def _statistics_restored_on_failure(self) -> Iterator[None]:
        before = [buffer.clone() for buffer in self._statistics]
        try:
            yield
        except BaseException:
            for buffer, former in zip(self._statistics, before, strict=True):
                buffer.copy_(former)
            raise


class _DistributedTrainer(Trainer):
    @property
    def group(self) -> ProcessGroup:
        assert isinstance(self.updates.ranks, ProcessGroup)
        return self.updates.ranks


class LeaderTrainer(_DistributedTrainer):
    """Rank 0. It alone measures, writes and decides, and sends the others an instruction."""

    _others_wait = False  # whether the other ranks wait for an instruction

    def fit(self) -> None:
        """Train up to `steps`. Raises a `WganError` if the run ends otherwise."""
        try:
            super().fit()
        except RankError:
            raise
        except BaseException:
            if self._others_wait:
                self._send(Instruction.END)
            raise

    def start(self) -> None:
        """Start the callbacks, wait for the other ranks, and send them the state."""
        super().start()
        self.group.arrive("start")
        self.group.send(self.state_dict())

    def advance(self) -> None:
        """One step. If another rank is lost during it, save the part that is done."""
        try:
            super().advance()
        except RankError as error:
            super().stop(error)

    def housekeeping(self) -> None:
        """Log, evaluate, draw and save if due; then let the others continue."""
        self._others_wait = due = self.cadence.point(self.step, self.steps).anything
        super().housekeeping()
        if due:
            self._send(Instruction.CONTINUE)

    def stop(self, error: WganError) -> NoReturn:
        """Save the run and end it with `error`, or with the failure of another rank.

        When one rank fails, torchrun asks the others to end. The failure is then the real reason.
        """
        self._others_wait = True
        super().stop(self.group.failure_of_other_rank() or error)

    def roll_back(self, error: DivergedError) -> None:
        """Load the newest checkpoint on all ranks, if the run may; else raise `error`."""
        self._others_wait = True
        super().roll_back(error)
        self._send(Instruction.ROLL_BACK)
        self.group.send(self.state_dict())

    def _send(self, instruction: Instruction) -> None:
        self._others_wait = False
        self.group.send_instruction(instruction)


class FollowerTrainer(_DistributedTrainer):
    """Any other rank. It has no callbacks and follows rank 0's instructions."""

    def start(self) -> None:
        """Load the state that rank 0 starts with."""
        self.load_state_dict(self.group.receive())

    def housekeeping(self) -> None:
        """Wait for rank 0 if it measures or writes; stop if a signal requested it."""
        due = self.cadence.point(self.step, self.steps).anything
        self.unmeasured = False
        if due or (self.device.type == "cpu" and self.updates.nan_guard.tripped()):
            self._follow_instruction()
        self.stop_if_requested()

    def stop(self, error: WganError) -> NoReturn:
        """Wait until rank 0 has ended, or rolls back because the run has diverged."""
        self._follow_instruction()
        raise error

    def roll_back(self, error: DivergedError) -> None:
        """Load the state that rank 0 rolled back to."""
        self.load_state_dict(self.group.receive())

    def _follow_instruction(self) -> None:
        instruction = self.group.wait_for_instruction()
        if instruction == Instruction.ROLL_BACK:
            raise DivergedError("Rank 0 rolls back.")
        if instruction == Instruction.END:
            raise RankError("Rank 0 ends the run.")
