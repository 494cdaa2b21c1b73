"""Generate the fakes of several critic updates of one step in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

# One pass generates the fakes of at most this many updates (the authors' warm-up has 100 a step)
# and at most this many numbers, so that it needs no more memory than an update of the critic.
GROUP = 8
MAX_NUMBERS = 2**20


class JointFakes:
    """The fakes of one critic phase, those of several updates generated together.

    The generator does not change in a critic phase, so one pass can serve several updates if a
    sample does not depend on its batch. Groups begin at fixed updates, and a run resumed inside a
    group generates the whole group again, because the last bits of a sample depend on the size of
    the group. `generate` returns the batches of a range of the phase's `count` updates.
    """

    def __init__(self, generate: Callable[[range], Sequence[Tensor]], count: int) -> None:
        self._generate = generate
        self._count = count
        self._start = -1
        self._batches: Sequence[Tensor] = ()

    def batch(self, inner: int, numbers: int) -> Tensor:
        """The fakes of the phase's critic update `inner`, counted from 0.

        `numbers` is how many numbers a batch holds; it limits the size of a group.
        """
        group = max(1, min(GROUP, MAX_NUMBERS // numbers))
        start = inner - inner % group
        if start != self._start:
            # Free the old group before the new one is generated.
            self._batches = ()
            self._batches = self._generate(range(start, min(start + group, self._count)))
            self._start = start
        return self._batches[inner - start]
