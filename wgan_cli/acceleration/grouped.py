"""Compute the batches of several critic updates at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

# A group has at most GROUP updates (the authors' warm-up has 100 per step) and, on a CPU, at most
# MAX_NUMBERS values, so that it needs no more memory than an update of the critic.
GROUP = 8
MAX_NUMBERS = 2**20
MAX_NUMBERS_ON_CUDA = 2**23

Item = TypeVar("Item")


@dataclass(eq=False)
class Grouped(Generic[Item]):
    """One item for each of the `count` critic updates of a step, computed for a group at a time.

    The fakes of several updates can come from one forward pass, because the generator does not
    change between these updates, if a sample does not depend on the other samples of its batch. The
    size of a group affects rounding. To get the same numbers after a resume, the boundaries of the
    groups are fixed, and a run that resumes inside a group computes the complete group again.
    `compute` takes a range of critic updates and returns one item for each. A group has at most
    `most_numbers` values, by default `MAX_NUMBERS`.
    """

    compute: Callable[[range], Sequence[Item]]
    count: int
    most_numbers: int | None = None
    _start: int = field(default=-1, init=False)
    _items: Sequence[Item] = field(default=(), init=False)

    def item(self, inner: int, numbers: int) -> Item:
        """Return the item of critic update `inner`, counted from 0.

        `numbers` is the number of values in an item, which limits the size of a group.
        """
        group = max(1, min(GROUP, (self.most_numbers or MAX_NUMBERS) // numbers))
        start = inner - inner % group
        if start != self._start:
            # Free the memory of the old group first.
            self._items = ()
            self._items = self.compute(range(start, min(start + group, self.count)))
            self._start = start
        return self._items[inner - start]
