"""What keeps NaN and infinity out of the weights without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from wgan_cli.optimizers import RMSprop

# Under the ranges of schema/optimizers.py these move finite weights by a finite gradient to finite
# weights, so it is enough to look at the gradient. Any other's weights are looked at too.
_SOUND = (RMSprop, torch.optim.Adam, torch.optim.SGD)


class NanGuard:
    """Lets optimizers step until a loss or a gradient is not finite, and from then on never again.

    Whether it is open is a tensor on the device that the optimizers' kernels read, so no update
    waits for it; `closed` does. What closed it is kept: the numbers of that update, by network, and
    how many generator updates had passed before.
    """

    def __init__(self, device: torch.device, numbers: dict[str, int]) -> None:
        self._open = torch.ones((), dtype=torch.bool, device=device)
        self._passed = torch.zeros((), dtype=torch.int64, device=device)
        # On the CPU every tensor is at hand, and a step that must not be taken is left out.
        self._at_hand = device.type == "cpu"
        self._last = {network: torch.zeros(n, device=device) for network, n in numbers.items()}

    def step(self, network: str, optimizer: torch.optim.Optimizer, numbers: Tensor) -> None:
        """The optimizer's step, if it may take it. `numbers` are the update's losses and norm."""
        sound = type(optimizer) in _SOUND
        if self._at_hand:
            self._look(network, numbers)
            if not self._open:
                return
        else:
            last = self._last[network]
            last.copy_(torch.where(self._open, numbers, last))
            self._open &= numbers.abs().max() < float("inf")
        if self._at_hand and sound:
            optimizer.step()
        elif sound and getattr(optimizer, "_step_supports_amp_scaling", False):
            self._step_unless_closed(optimizer)
        else:
            self._step_or_undo(optimizer)
        if network == "generator":
            self._passed += self._open

    def closed(self) -> bool:
        """Whether an update was kept out; this waits for the device."""
        return not self._open

    def passed(self) -> int:
        """The generator updates let through since the gate was made or opened."""
        return int(self._passed)

    def last(self, network: str) -> list[float]:
        """The newest numbers of a network's updates: where they closed the gate, those."""
        return self._last[network].tolist()

    def tensors(self) -> list[Tensor]:
        """What a step changes of it."""
        return [self._open, self._passed, *self._last.values()]

    def reopen(self) -> None:
        """Start again, with sound weights."""
        self._open.fill_(True)
        self._passed.zero_()
        for numbers in self._last.values():
            numbers.zero_()

    def _look(self, network: str, numbers: Tensor) -> None:
        """On the CPU: close the gate where a number is not finite, and keep the newest."""
        if self._open:
            self._last[network].copy_(numbers)
            if not all(map(math.isfinite, numbers.tolist())):
                self._open.fill_(False)

    def _step_unless_closed(self, optimizer: torch.optim.Optimizer) -> None:
        """By the flag that fused kernels read to leave everything as it is."""
        optimizer.found_inf = (~self._open).float()  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf  # type: ignore[attr-defined]

    @torch.no_grad()
    def _step_or_undo(self, optimizer: torch.optim.Optimizer) -> None:
        """By going back to copies, where the gate is closed or the step broke a weight."""
        before = [(tensor, tensor.clone()) for tensor in moved_by(optimizer)]
        optimizer.step()
        for tensor in moved_by(optimizer):
            self._open &= tensor.isfinite().all().to(self._open.device)
        for tensor, copy in before:
            tensor.copy_(torch.where(self._open.to(tensor.device), tensor, copy))


def moved_by(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Every weight and every tensor of an optimizer's state, those of the first step after it."""
    for group in optimizer.param_groups:
        yield from group["params"]
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
