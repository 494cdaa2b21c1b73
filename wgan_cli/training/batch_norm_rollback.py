"""Restore BatchNorm's running statistics if an update fails."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNormRollback:
    """Context that restores the networks' BatchNorm statistics if an exception leaves it.

    A forward pass changes them, and what follows it may fail. When the update is repeated after a
    resume, the statistics must not have seen its batch yet.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        norms = [m for n in networks for m in n.modules() if isinstance(m, _BatchNorm)]
        self._now: list[Tensor] = [buffer for norm in norms for buffer in norm.buffers()]
        self._before = [buffer.clone() for buffer in self._now]

    def __enter__(self) -> None:
        if self._now:
            torch._foreach_copy_(self._before, self._now)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._now:
            torch._foreach_copy_(self._now, self._before)
