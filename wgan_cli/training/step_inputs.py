"""The real batches and the random numbers that each training step needs.

On the CPU, `StepInputs` computes each of them when it is needed. On CUDA, `StagedInputs` copies
what the host decides for many steps to the device at once and computes the rest there. A step then
needs nothing from the host, and a CUDA graph can contain the whole step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wgan_cli.acceleration.grouped import MAX_NUMBERS_ON_CUDA, Grouped
from wgan_cli.acceleration.joint_draws import JointDraws
from wgan_cli.data.feeds import Batch, Feed, StagedFeed, copy_ahead
from wgan_cli.randomness import Draws, Shard, Stream
from wgan_cli.training.schedule import CriticSchedule

# A function from a step to the learning rate of each parameter group.
Rates = Callable[[int], list[float]]


@dataclass(eq=False)
class StepInputs:
    """Computes each batch and each random number of a step when it is requested.

    Call `begin` before each step. `shard` selects this process's rows of every batch. A group of
    batches that are computed together has at most `most_numbers` values (see `Grouped`).
    """

    feed: Feed
    schedule: CriticSchedule
    seed: int
    shard: Shard
    most_numbers: int | None = None

    def __post_init__(self) -> None:
        self.step = self.updates = self.first = 0
        self._last: tuple[int, Batch] | None = None

    def begin(self, step: int, next_log: int, rates: Rates) -> None:
        """Prepare for step `step`, counted from 0. `rates` returns the learning rates of a step.

        `next_log` is the number of finished steps at the next log point, where the host waits for
        the device.
        """
        self.step, self.updates = step, self.schedule.updates(step)
        self.first = self.schedule.updates_before(step)
        self._last = None

    def restart(self) -> None:
        """Forget what was prepared for later steps. Call this if the next step is another one."""

    def real(self, inner: int) -> Batch:
        """Return the real samples of critic update `inner`, and their classes if they have any."""
        if self._last is None or self._last[0] != inner:
            self._last = (inner, self.feed.batch(self.first + inner))
        return self._last[1]

    def critic_draws(self, stream: Stream, inner: int) -> Draws:
        """Return the random numbers of critic update `inner`."""
        return Draws(self.seed, stream, self.step, inner, self.shard)

    def generator_draws(self, stream: Stream) -> Draws:
        """Return the random numbers of the generator update."""
        return Draws(self.seed, stream, self.step, shard=self.shard)

    def finish(self) -> None:
        """Go on to the data of the next step. Call this at the end of each complete step."""


class StagedInputs(StepInputs):
    """Inputs that lie on the device before a step needs them.

    At a log point, the host copies the data and learning rates of all steps up to the next log
    point, which is at most `log_every` steps later, to the device. `cursor` (2,) holds the numbers
    of steps and of critic updates that were done since then. A batch has `numbers` values, and
    there are `groups` learning rates.
    """

    feed: StagedFeed

    def __init__(
        self,
        feed: StagedFeed,
        schedule: CriticSchedule,
        seed: int,
        shard: Shard,
        device: torch.device,
        *,
        log_every: int,
        numbers: int,
        groups: int,
    ) -> None:
        super().__init__(feed, schedule, seed, shard, MAX_NUMBERS_ON_CUDA)
        self._numbers = numbers
        self.draws = JointDraws(seed, device, shard)
        most = schedule.most_updates
        # One step is staged even if it has more updates than this.
        self._most_staged = min(feed.most_staged, log_every * most)
        capacity = max(most, self._most_staged)
        self._buffers = feed.buffers(capacity)
        self._rates = torch.zeros(capacity, groups, device=device)
        self._offsets = torch.arange(most, device=device)
        self.cursor = torch.zeros(2, dtype=torch.int64, device=device)
        self._staged = range(0)
        self._real: Grouped[Batch]

    def begin(self, step: int, next_log: int, rates: Rates) -> None:
        """Prepare for step `step`: seed its random numbers, and stage its data if necessary."""
        super().begin(step, next_log, rates)
        self.draws.begin(step, self.updates)
        self._real = Grouped(self._real_batches, self.updates, self.most_numbers)
        end = self.first + self.updates
        if not (self._staged.start <= self.first and end <= self._staged.stop):
            stop = step + 1
            while stop < next_log and self._end(stop) - self.first <= self._most_staged:
                stop += 1
            self._staged = range(self.first, self.schedule.updates_before(stop))
            self.feed.stage(self._staged, self._buffers)
            copy_ahead(torch.tensor([rates(each) for each in range(step, stop)]), self._rates)
            self.cursor.zero_()

    def restart(self) -> None:
        """Forget the staged data."""
        self._staged = range(0)

    def real(self, inner: int) -> Batch:
        """Return the real samples of critic update `inner`, and their classes if they have any."""
        return self._real.item(inner, self._numbers)

    def critic_draws(self, stream: Stream, inner: int) -> Draws:
        """Return the random numbers of critic update `inner`."""
        return self.draws.critic(stream, inner)

    def generator_draws(self, stream: Stream) -> Draws:
        """Return the random numbers of the generator update."""
        return self.draws.generator_update(stream)

    def rates(self) -> Tensor:
        """Return the step's learning rates (groups,) on the device."""
        return self._rates.index_select(0, self.cursor[:1])[0]

    def finish(self) -> None:
        """Move the cursor to the data of the next step."""
        self.cursor[0] += 1
        self.cursor[1] += self.updates

    def _end(self, step: int) -> int:
        """Return the number of critic updates up to the end of step `step`."""
        return self.schedule.updates_before(step + 1)

    def _real_batches(self, inners: range) -> Sequence[Batch]:
        chosen = self.cursor[1] + self._offsets[inners.start : inners.stop]
        rows = [buffer.index_select(0, chosen) for buffer in self._buffers]
        return self.feed.batches(rows, lambda: self._flips(inners))

    def _flips(self, inners: range) -> Tensor:
        rows = self._buffers[0].shape[1]
        block = self.draws.block(torch.rand, Stream.FLIPS, self.updates, (rows,))
        return block[inners.start : inners.stop]
