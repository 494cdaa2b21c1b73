"""Keep NaN and infinity out of the weights without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class NanGuard:
    """Blocks all optimizer steps as soon as a loss or gradient is not finite.

    The guard trips at the first loss or gradient that is NaN or infinite. Its state is a tensor on
    the device, which fused optimizer kernels read. So updates do not wait for the device; only
    `tripped()` waits. The guard stores each network's terms up to the update that tripped it, and
    counts the generator updates before that update.

    The keys of both mappings are the names of the networks. `terms` is the number of terms that an
    update reports. `keeps_finite` is True if a step with a finite gradient always keeps finite
    weights finite. If it is False (the default), the guard also checks the new weights.
    """

    def __init__(
        self, device: torch.device, terms: Mapping[str, int], keeps_finite: Mapping[str, bool]
    ) -> None:
        self._keeps_finite = keeps_finite
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self._blocked = torch.zeros((), device=device)
        self._updates_passed = torch.zeros((), dtype=torch.int64, device=device)
        self._last_terms = {network: torch.zeros(n, device=device) for network, n in terms.items()}
        # On the CPU, reading a tensor never waits, so a blocked step can be skipped.
        self._on_cpu = device.type == "cpu"

    @contextmanager
    def protect(
        self, network: str, optimizer: torch.optim.Optimizer, terms: Tensor
    ) -> Iterator[bool]:
        """Check an update's terms; yield True if the block should call `optimizer.step()`.

        `terms` holds the losses and the gradient's norm. On the CPU, the yielded value is False
        once the guard has tripped. On CUDA, the value is always True, and a blocked step changes no
        weights.
        """
        self._check(network, terms)
        keeps_finite = self._keeps_finite.get(network, False)
        if self._on_cpu and not self._finite:
            yield False
        elif self._on_cpu and keeps_finite:
            yield True
        elif keeps_finite and getattr(optimizer, "_step_supports_amp_scaling", False):
            # Fused kernels read this flag and leave everything unchanged if it is set.
            torch.logical_not(self._finite, out=self._blocked)
            optimizer.found_inf = self._blocked  # type: ignore[attr-defined]
            try:
                yield True
            finally:
                del optimizer.found_inf  # type: ignore[attr-defined]
        else:
            before = [(tensor, tensor.detach().clone()) for tensor in self._guarded(optimizer)]
            yield True
            self._restore_if_not_finite(optimizer, before)
        if network == "generator":
            self._updates_passed += self._finite

    def tripped(self) -> bool:
        """Return True if an update was blocked. This waits for the device."""
        return not self._finite

    def updates_passed(self) -> int:
        """Return the number of generator updates since the last reset that were not blocked."""
        return int(self._updates_passed)

    def last_terms(self, network: str) -> list[float]:
        """Return the terms of a network's last update, or of the update that tripped the guard."""
        return self._last_terms[network].tolist()

    def tensors(self) -> list[Tensor]:
        """Return the guard's tensors that an update changes."""
        return [self._finite, self._updates_passed, *self._last_terms.values()]

    def reset(self) -> None:
        """Allow updates again. Call this only if the weights are finite."""
        self._finite.fill_(True)
        self._updates_passed.zero_()
        for terms in self._last_terms.values():
            terms.zero_()

    def _check(self, network: str, terms: Tensor) -> None:
        last = self._last_terms[network]
        if not self._on_cpu:
            torch.where(self._finite, terms, last, out=last)
            self._finite &= torch.linalg.vector_norm(terms, float("inf")) < float("inf")
        elif self._finite:
            last.copy_(terms)
            if not all(map(math.isfinite, terms.tolist())):
                self._finite.fill_(False)

    @torch.no_grad()
    def _restore_if_not_finite(
        self, optimizer: torch.optim.Optimizer, before: list[tuple[Tensor, Tensor]]
    ) -> None:
        for tensor in self._guarded(optimizer):
            self._finite &= tensor.isfinite().all()
        for tensor, copy in before:
            tensor.copy_(torch.where(self._finite, tensor, copy))

    def _guarded(self, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
        """Yield the optimizer's tensors, without step counts on the CPU of an optimizer on CUDA.

        Restoring these counts would make every update wait for the device. It is not necessary: a
        run whose guard has tripped ends, or loads a checkpoint.
        """
        device = self._finite.device
        return (each for each in tensors_moved_by(optimizer) if each.device == device)


def tensors_moved_by(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield the weights and state tensors of an optimizer.

    Before the optimizer's first step it has no state, so only the weights are yielded.
    """
    for group in optimizer.param_groups:
        yield from group["params"]
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
