"""Training with several processes: one trainer for rank 0 and one for the other ranks."""

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
    """`Updates` for several ranks. If an update fails, BatchNorm's statistics are restored.

    An update fails if another rank is lost. The run is then saved in the state before the update,
    and a resume repeats the update.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        modules = (*self.generator.modules(), *self.critic.modules())
        self._statistics = [b for m in modules if isinstance(m, _BatchNorm) for b in m.buffers()]

    def critic_update(self, *arguments: Any, **options: Any) -> Tensor:
        """Run `Updates.critic_update`. If it fails, restore BatchNorm's statistics."""
        with self._statistics_restored_on_failure():
            return super().critic_update(*arguments, **options)

    def generator_update(self, *arguments: Any, **options: Any) -> Tensor:
        """Run `Updates.generator_update`. If it fails, restore BatchNorm's statistics."""
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
    """The trainer of rank 0. It measures, writes files and sends instructions to other ranks."""

    _others_wait = False  # whether the other ranks wait for an instruction

    def fit(self) -> None:
        """Train until step `steps`. Raise a `WganError` if the run ends earlier."""
        try:
            super().fit()
        except RankError:
            raise
        except BaseException:
            if self._others_wait:
                self._send(Instruction.END)
            raise

    def start(self) -> None:
        """Start the callbacks, wait for the other ranks, and send the initial state to them."""
        super().start()
        self.group.arrive("start")
        self.group.send(self.state_dict())

    def advance(self) -> None:
        """Train one step. If another rank is lost, save the finished part of the step."""
        try:
            super().advance()
        except RankError as error:
            super().stop(error)

    def housekeeping(self) -> None:
        """Do the work that is due after a step, then let the other ranks continue."""
        self._others_wait = due = self.cadence.point(self.step, self.steps).anything
        super().housekeeping()
        if due:
            self._send(Instruction.CONTINUE)

    def stop(self, error: WganError) -> NoReturn:
        """Save the run and raise `error`.

        If another rank has reported a failure, raise that failure instead: torchrun stops all
        processes when one rank fails, so `error` may only be a consequence of it.
        """
        self._others_wait = True
        super().stop(self.group.failure_of_other_rank() or error)

    def roll_back(self, error: DivergedError) -> None:
        """Load the newest checkpoint on all ranks. Raise an error if no rollback is possible."""
        self._others_wait = True
        super().roll_back(error)
        self._send(Instruction.ROLL_BACK)
        self.group.send(self.state_dict())

    def _send(self, instruction: Instruction) -> None:
        self._others_wait = False
        self.group.send_instruction(instruction)


class FollowerTrainer(_DistributedTrainer):
    """The trainer of the other ranks. It has no callbacks and follows instructions of rank 0."""

    def start(self) -> None:
        """Receive the initial state from rank 0 and load it."""
        self.load_state_dict(self.group.receive())

    def housekeeping(self) -> None:
        """Wait while rank 0 measures or writes files. Stop the run if a signal requested a stop."""
        due = self.cadence.point(self.step, self.steps).anything
        self.unmeasured = False
        if due or (self.device.type == "cpu" and self.updates.nan_guard.tripped()):
            self._follow_instruction()
        self.stop_if_requested()

    def stop(self, error: WganError) -> NoReturn:
        """Wait for rank 0 to decide. Raise `DivergedError` to roll back or `RankError` to end."""
        self._follow_instruction()
        raise error

    def roll_back(self, error: DivergedError) -> None:
        """Receive the state after the rollback of rank 0, and load it."""
        self.load_state_dict(self.group.receive())

    def _follow_instruction(self) -> None:
        instruction = self.group.wait_for_instruction()
        if instruction == Instruction.ROLL_BACK:
            raise DivergedError("Rank 0 rolls back.")
        if instruction == Instruction.END:
            raise RankError("Rank 0 ends the run.")
