"""Keep NaN and infinity out of the weights without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class NanGuard:
    """Once a loss or gradient is not finite, blocks that optimizer step and all later ones.

    Whether it has tripped is a tensor on the device that fused optimizer kernels read, so updates
    do not wait for the device; only `tripped()` waits. The guard keeps, by network, the terms of
    the update that tripped it. It also counts the generator updates that it let pass before.

    `terms` is the number of terms an update reports, by network. `keeps_finite` says by network
    whether a step by a finite gradient leaves finite weights finite, so that checking the terms is
    enough. Otherwise (the default) the new weights are checked too.
    """

    def __init__(
        self, device: torch.device, terms: Mapping[str, int], keeps_finite: Mapping[str, bool]
    ) -> None:
        self._keeps_finite = keeps_finite
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self._updates_passed = torch.zeros((), dtype=torch.int64, device=device)
        self._last_terms = {network: torch.zeros(n, device=device) for network, n in terms.items()}
        # On the CPU reading a tensor never waits, and a blocked step is skipped.
        self._on_cpu = device.type == "cpu"

    @contextmanager
    def protect(
        self, network: str, optimizer: torch.optim.Optimizer, terms: Tensor
    ) -> Iterator[bool]:
        """Check an update's terms; yield True if the block should call `optimizer.step()`.

        `terms` are the losses and the gradient's norm. On the CPU, False is yielded once the guard
        has tripped. On CUDA the value is always True, and a step that must be blocked leaves the
        weights as they were.
        """
        self._check(network, terms)
        keeps_finite = self._keeps_finite.get(network, False)
        if self._on_cpu and not self._finite:
            yield False
        elif self._on_cpu and keeps_finite:
            yield True
        elif keeps_finite and getattr(optimizer, "_step_supports_amp_scaling", False):
            # Fused kernels read this flag and leave everything unchanged if it is set.
            optimizer.found_inf = (~self._finite).float()  # type: ignore[attr-defined]
            try:
                yield True
            finally:
                del optimizer.found_inf  # type: ignore[attr-defined]
        else:
            before = [(tensor, tensor.detach().clone()) for tensor in tensors_moved_by(optimizer)]
            yield True
            self._restore_if_not_finite(optimizer, before)
        if network == "generator":
            self._updates_passed += self._finite

    def tripped(self) -> bool:
        """Whether an update was blocked. Waits for the device."""
        return not self._finite

    def updates_passed(self) -> int:
        """The generator updates let through since the guard was created or reset."""
        return int(self._updates_passed)

    def last_terms(self, network: str) -> list[float]:
        """The terms of a network's last update, or of the one that tripped the guard."""
        return self._last_terms[network].tolist()

    def tensors(self) -> list[Tensor]:
        """The guard's tensors that an update changes."""
        return [self._finite, self._updates_passed, *self._last_terms.values()]

    def reset(self) -> None:
        """Let updates pass again. Call it once the weights are finite again."""
        self._finite.fill_(True)
        self._updates_passed.zero_()
        for terms in self._last_terms.values():
            terms.zero_()

    def _check(self, network: str, terms: Tensor) -> None:
        last = self._last_terms[network]
        if not self._on_cpu:
            last.copy_(torch.where(self._finite, terms, last))
            self._finite &= terms.abs().max() < float("inf")
        elif self._finite:
            last.copy_(terms)
            if not all(map(math.isfinite, terms.tolist())):
                self._finite.fill_(False)

    @torch.no_grad()
    def _restore_if_not_finite(
        self, optimizer: torch.optim.Optimizer, before: list[tuple[Tensor, Tensor]]
    ) -> None:
        for tensor in tensors_moved_by(optimizer):
            self._finite &= tensor.isfinite().all().to(self._finite.device)
        for tensor, copy in before:
            tensor.copy_(torch.where(self._finite.to(tensor.device), tensor, copy))


def tensors_moved_by(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Every weight of an optimizer and every tensor of its state, which its first step creates."""
    for group in optimizer.param_groups:
        yield from group["params"]
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
