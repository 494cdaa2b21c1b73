"""What the generator makes for the critic updates of one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

# At most so many updates' samples are made at once, an authors' warm-up having 100 a step, and so
# many numbers, so that a joint pass needs no more memory than an update of the critic.
GROUP = 8
ROOM = 2**20


class JointFakes:
    """The generated samples of a step's critic updates, several updates' in one pass.

    The generator stands still in a critic phase, so its passes can be one wherever a sample does
    not depend on its batch. Groups begin at fixed places, and a run that goes on amid one makes all
    of it again: a sample's last bits depend on how many are made with it. `make` gives the batches
    of these updates of the step.
    """

    def __init__(self, make: Callable[[range], Sequence[Tensor]]) -> None:
        self._make = make
        self._made: Sequence[Tensor] = ()

    def of(self, inner: int, first: int, count: int, numbers: int) -> Tensor:
        """The batch of update `inner`, counted from 0, of a step that has `count` of them.

        This process began the step, or went on with it, at update `first`. A batch has so many
        `numbers`.
        """
        group = max(1, min(GROUP, ROOM // numbers))
        place = inner % group
        if place == 0 or inner == first:
            start = inner - place
            self._made = ()
            self._made = self._make(range(start, min(start + group, count)))
        batch = self._made[place]
        if inner == count - 1:
            self._made = ()
        return batch
