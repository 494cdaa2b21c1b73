"""Generate the fake samples of several critic updates in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

# One pass generates the fakes of at most GROUP updates (the authors' warm-up has 100 per step) and
# at most MAX_NUMBERS values, so that it needs no more memory than an update of the critic.
GROUP = 8
MAX_NUMBERS = 2**20


@dataclass(eq=False)
class JointFakes:
    """The fake samples for the `count` critic updates of one step.

    The generator does not change between these updates, so one forward pass can generate the fakes
    of several updates (a group), if a sample does not depend on the other samples of its batch. The
    size of a group affects rounding. To get the same numbers after a resume, the boundaries of the
    groups are fixed, and a run that resumes inside a group generates the complete group again.
    `generate` takes a range of critic updates and returns one batch for each.
    """

    generate: Callable[[range], Sequence[Tensor]]
    count: int
    _start: int = field(default=-1, init=False)
    _batches: Sequence[Tensor] = field(default=(), init=False)

    def batch(self, inner: int, numbers: int) -> Tensor:
        """Return the fakes of critic update `inner`, counted from 0.

        `numbers` is the number of values in a batch, which limits the size of a group.
        """
        group = max(1, min(GROUP, MAX_NUMBERS // numbers))
        start = inner - inner % group
        if start != self._start:
            # Free the memory of the old group first.
            self._batches = ()
            self._batches = self.generate(range(start, min(start + group, self.count)))
            self._start = start
        return self._batches[inner - start]
