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

    A rank may be lost during an update. The run is then saved as it was before that update, and a
    resume repeats the update.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        modules = (*self.generator.modules(), *self.critic.modules())
        self._statistics = [b for m in modules if isinstance(m, _BatchNorm) for b in m.buffers()]

    def critic_update(self, *arguments: Any, **options: Any) -> Tensor:
        """Do the same as `Updates.critic_update`."""
        with self._statistics_restored_on_failure():
            return super().critic_update(*arguments, **options)

    def generator_update(self, *arguments: Any, **options: Any) -> Tensor:
        """Do the same as `Updates.generator_update`."""
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
    """Trainer of rank 0, which measures, writes files and sends instructions to the other ranks."""

    _others_wait = False  # whether the other ranks wait for an instruction

    def fit(self) -> None:
        """Train until `steps`. Raise a `WganError` if the run ends before."""
        try:
            super().fit()
        except RankError:
            raise
        except BaseException:
            if self._others_wait:
                self._send(Instruction.END)
            raise

    def start(self) -> None:
        """Start the callbacks, wait for the other ranks, and send the state to them."""
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
        """Log, evaluate, draw and save if due; then let the other ranks continue."""
        self._others_wait = due = self.cadence.point(self.step, self.steps).anything
        super().housekeeping()
        if due:
            self._send(Instruction.CONTINUE)

    def stop(self, error: WganError) -> NoReturn:
        """Save the run and raise `error`, or the failure of another rank if there is one.

        If a rank fails, torchrun stops the others, so that the failure is the cause of `error`.
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
    """Trainer of all other ranks. It has no callbacks and follows rank 0's instructions."""

    def start(self) -> None:
        """Receive and load the state with which rank 0 starts."""
        self.load_state_dict(self.group.receive())

    def housekeeping(self) -> None:
        """Wait while rank 0 measures or writes; stop if a signal requested it."""
        due = self.cadence.point(self.step, self.steps).anything
        self.unmeasured = False
        if due or (self.device.type == "cpu" and self.updates.nan_guard.tripped()):
            self._follow_instruction()
        self.stop_if_requested()

    def stop(self, error: WganError) -> NoReturn:
        """Wait for rank 0's instruction to end or to roll back, and raise the matching error."""
        self._follow_instruction()
        raise error

    def roll_back(self, error: DivergedError) -> None:
        """Receive and load the state to which rank 0 rolled back."""
        self.load_state_dict(self.group.receive())

    def _follow_instruction(self) -> None:
        instruction = self.group.wait_for_instruction()
        if instruction == Instruction.ROLL_BACK:
            raise DivergedError("Rank 0 rolls back.")
        if instruction == Instruction.END:
            raise RankError("Rank 0 ends the run.")
