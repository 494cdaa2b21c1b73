"""What the generator makes for the critic updates of one step."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from wgan_cli.training.updates import Updates

# So many updates' samples are made at once at most: an authors' warm-up has 100 a step.
GROUP = 8


class Fakes:
    """The generated samples of a step's critic updates, several updates' in one pass.

    The generator stands still in a critic phase, so that its passes can be one wherever a sample
    does not depend on its batch (`Updates.one_generator_pass`). Groups begin at every `GROUP`-th
    update, and a run that goes on amid one makes all of it again: a sample's last bits depend on
    how many are made with it. `noise` gives the latents of a critic update of the step.
    """

    def __init__(self, updates: Updates, noise: Callable[[int], Tensor]) -> None:
        self._updates = updates
        self._noise = noise
        self._made: tuple[Tensor, ...] = ()

    def of(self, inner: int, first: int, count: int) -> Tensor | None:
        """The samples (batch, *sample shape) of one of a step's `count` updates.

        `first` is the update with which this phase begins or goes on. None where each update has to
        make its own.
        """
        if not self._updates.one_generator_pass or count == 1:
            return None
        place = inner % GROUP
        if place == 0 or inner == first:
            start = inner - place
            latents = [self._noise(each) for each in range(start, min(start + GROUP, count))]
            self._made = self._updates.fakes(latents)
        return self._made[place]
