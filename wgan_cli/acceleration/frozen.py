"""A context in which a network's weights get no gradients."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class Frozen:
    """A context in which a network gets no gradients and keeps its BatchNorm running statistics.

    In train mode, BatchNorm still normalises by the batch. Create the context once and reuse it,
    because listing the modules of a network takes as long as running a small layer.
    """

    def __init__(self, network: nn.Module) -> None:
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._norms = [
            m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats
        ]

    def __enter__(self) -> None:
        self._set(trained=False)

    def __exit__(self, *exception: object) -> None:
        self._set(trained=True)

    def _set(self, *, trained: bool) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(trained)
        for norm in self._norms:
            norm.track_running_stats = trained
