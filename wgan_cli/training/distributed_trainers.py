"""The training loop where several processes train one run: rank 0's, and the others'."""

from __future__ import annotations

from typing import NoReturn

from wgan_cli.distributed.process_group import Instruction, ProcessGroup
from wgan_cli.errors import DivergedError, RankError, WganError
from wgan_cli.training.trainer import Trainer


class _Ranked(Trainer):
    """A trainer whose updates speak to other ranks."""

    @property
    def group(self) -> ProcessGroup:
        assert isinstance(self.updates.ranks, ProcessGroup)
        return self.updates.ranks


class LeaderTrainer(_Ranked):
    """Rank 0: it alone measures, writes and decides, and says so where the others wait for it."""

    # Whether the others wait for a word.
    _awaited = False

    def fit(self) -> None:
        """Train up to `steps`. Raises a `WganError` where the run ends otherwise."""
        try:
            super().fit()
        except RankError:
            raise
        except BaseException:
            if self._awaited:
                self._say(Instruction.END)
            raise

    def begin(self) -> None:
        """Begin the record, which tells of a rank that is not there, and let the others begin."""
        super().begin()
        self.group.arrive("start")
        self.group.send(self.state())

    def advance(self) -> None:
        """One step. Where another rank is lost amid it, what is done of it is saved."""
        try:
            super().advance()
        except RankError as error:
            super().stop(error)

    def housekeeping(self) -> None:
        """Log, sample, evaluate and save where due; then let the others go on."""
        due = self.cadence.point(self.step, self.steps).anything
        self._awaited = due
        super().housekeeping()
        if due:
            self._say(Instruction.GO_ON)

    def stop(self, error: WganError) -> NoReturn:
        """Save what there is and end the run by `error`, or by what another rank has told.

        torchrun asks all ranks to end where one has failed.
        """
        self._awaited = True
        super().stop(self.group.trouble() or error)

    def go_back(self, error: DivergedError) -> None:
        """Load the newest checkpoint on all ranks, if the run may; else raise the error."""
        self._awaited = True
        super().go_back(error)
        self._say(Instruction.GO_BACK)
        self.group.send(self.state())

    def _say(self, word: Instruction) -> None:
        self._awaited = False
        self.group.say(word)


class FollowerTrainer(_Ranked):
    """Any other rank: it has no callbacks and does what rank 0 says."""

    def begin(self) -> None:
        """Load what rank 0 begins with."""
        self.load(self.group.receive())

    def housekeeping(self) -> None:
        """Wait for rank 0 where it does more than a step; stop where all were asked to."""
        due = self.cadence.point(self.step, self.steps).anything
        self.unmeasured = False
        if due or (self.device.type == "cpu" and self.updates.gate.closed()):
            self._listen()
        stop = self.signals.requested() if self.signals is not None else None
        if stop is not None and self.step < self.steps:
            self.stop(stop)

    def stop(self, error: WganError) -> NoReturn:
        """Wait until rank 0 has ended, or goes back because what it would save is not sound."""
        self._listen()
        raise error

    def go_back(self, error: DivergedError) -> None:
        """Load what rank 0 went back to."""
        self.load(self.group.receive())

    def _listen(self) -> None:
        word = self.group.listen()
        if word == Instruction.GO_BACK:
            raise DivergedError("Rank 0 goes back.")
        if word == Instruction.END:
            raise RankError("Rank 0 ends the run.")
