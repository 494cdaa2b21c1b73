"""The critic and generator updates, each recorded once as a CUDA graph and then replayed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from wgan_cli.acceleration.cuda_graphs import CudaGraph, GraphedUpdate, make_capturable
from wgan_cli.randomness import Draws
from wgan_cli.training.nan_guard import tensors_moved_by
from wgan_cli.training.updates import Updates


class GraphedUpdates(Updates):
    """`Updates` that run as CUDA graphs in one process. The arguments are those of `Updates`."""

    def __init__(self, *arguments: Any, graph: type[CudaGraph] = CudaGraph, **options: Any) -> None:
        super().__init__(*arguments, **options)
        critic_update, generator_update = super().critic_update, super().generator_update
        self._critic_graph = GraphedUpdate(
            "critic",
            lambda real, latent, labels, draws: critic_update(real, latent, draws, labels),
            lambda: self._changed_by("critic"),
            graph,
        )
        self._generator_graph = GraphedUpdate(
            "generator", generator_update, lambda: self._changed_by("generator"), graph
        )
        self._record_anew()

    def critic_update(
        self,
        real: Tensor,
        latent: Tensor | None,
        draws: Draws,
        labels: Tensor | None = None,
        fake: Tensor | None = None,
    ) -> Tensor:
        """Run `Updates.critic_update` as a graph. `latent` is required and `fake` is ignored."""
        return self._critic_graph(real, latent, labels, draws=draws)

    def generator_update(
        self, latent: Tensor, labels: Tensor | None = None, real: Tensor | None = None
    ) -> Tensor:
        """Run `Updates.generator_update` as a graph."""
        return self._generator_graph(latent, labels, real)

    @property
    def joins_fakes(self) -> bool:
        """Return False: fakes for several critic updates cannot be generated in one batch.

        Each recorded critic update runs the generator itself.
        """
        return False

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state. Record the graphs again, because loading moves their tensors."""
        super().load_state_dict(state)
        self._record_anew()

    def _record_anew(self) -> None:
        self._critic_graph.reset()
        self._generator_graph.reset()
        for _, optimizer in self._networks().values():
            make_capturable(optimizer)

    def _changed_by(self, network: str) -> list[Tensor]:
        """Return the tensors that an update of this network changes."""
        trained, optimizer = self._networks()[network]
        guard = self.nan_guard.tensors()
        return [*trained.updated_tensors(), *guard, *tensors_moved_by(optimizer)]
