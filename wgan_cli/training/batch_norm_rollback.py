"""BatchNorm's running statistics, put back where an update that moved them is cut."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNormRollback:
    """Those of some networks: inside the context an exception leaves them as they were before.

    A forward pass moves them, and what comes after it may fail: when the update is done again, they
    have not seen its batch yet.
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
