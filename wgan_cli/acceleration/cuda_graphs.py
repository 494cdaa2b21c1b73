"""Whole updates as CUDA graphs.

An update of these networks is some hundred kernels of a few microseconds, and launching them from
Python takes longer than running them. A graph launches all of them at once. Critic and generator
updates are graphs of their own, so n_critic may change from step to step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from wgan_cli.randomness import Draws
from wgan_cli.training.failures import is_out_of_memory

log = logging.getLogger(__name__)

# Calls that run kernel by kernel: libraries choose their kernels and optimizers make their state.
WARM_UP = 3

Update = Callable[..., Tensor]


class Graph(Protocol):
    """What records the kernels that an update launches, and launches them again."""

    def rehearse(self, update: Callable[[], Tensor]) -> Tensor:
        """Run; raises `RuntimeError` for what cannot be recorded, where that shows beforehand."""

    def record(self, update: Callable[[], Tensor]) -> Tensor:
        """Record without running; returns where the results will be."""

    def replay(self) -> None:
        """Run what was recorded."""


class CudaGraph:
    """torch's CUDA graphs."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def rehearse(self, update: Callable[[], Tensor]) -> Tensor:
        """Run an update, which must not wait for the device: a recording would be left broken."""
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return update()
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def record(self, update: Callable[[], Tensor]) -> Tensor:
        """Record an update on a stream of its own."""
        # Other threads, as one that pins batches, may go on calling CUDA meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            return update()

    def replay(self) -> None:
        """Launch all kernels at once."""
        self._graph.replay()


class GraphedUpdate:
    """An update that is recorded once and replayed from then on.

    `update(*inputs, draws=draws)`, or without draws, must find all but its inputs and random
    numbers where it was in the call before: weights, optimizer state, learning rate. The first
    replay is compared with the same update kernel by kernel, on `state()`, the tensors it changes.
    Where it cannot be recorded, or they part, the log says why in one line and updates go on kernel
    by kernel.
    """

    def __init__(
        self,
        name: str,
        update: Update,
        state: Callable[[], list[Tensor]],
        graph: Callable[[], Graph] = CudaGraph,
    ) -> None:
        self._name = name
        self._update = update
        self._state = state
        self._make = graph
        self._possible = True
        self.forget()

    def forget(self) -> None:
        """Record anew, because what an update finds has moved."""
        self._calls = 0
        self._graph: Graph | None = None
        self._inputs: list[Tensor | None] = []
        self._notes: list[tuple[str, tuple[int, ...], Tensor]] = []
        self._result = torch.empty(0)

    def __call__(self, *inputs: Tensor | None, draws: Draws | None = None) -> Tensor:
        """The update on these inputs, whose shapes are those of every other call's."""
        self._calls += 1
        if not self._possible or self._calls <= WARM_UP:
            return self._run(inputs, draws)
        if self._graph is None:
            return self._record(inputs, draws)
        self._fill(inputs, draws)
        self._graph.replay()
        return self._result

    def _run(self, inputs: Sequence[Tensor | None], draws: Any) -> Tensor:
        return self._update(*inputs) if draws is None else self._update(*inputs, draws=draws)

    def _record(self, inputs: Sequence[Tensor | None], draws: Draws | None) -> Tensor:
        """Run the update kernel by kernel, record it, and see that the record does the same."""
        state = self._state()
        before = _copies(state)
        noted = None if draws is None else _Noted(draws)
        graph = self._make()
        try:
            expected = graph.rehearse(lambda: self._run(inputs, noted)).clone()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            _restore(state, before)
            self._give_up(error)
            return self._run(inputs, draws)
        after = _copies(state)
        self._inputs = [None if each is None else each.clone() for each in inputs]
        self._notes = [] if noted is None else noted.notes
        try:
            self._result = graph.record(
                lambda: self._run(self._inputs, None if noted is None else _Given(noted.places))
            )
            _restore(state, before)
            graph.replay()
            if _close(self._result, expected) and _moved_alike(state, before, after):
                self._graph = graph
                return self._result
            self._give_up("its replay computes something else")
        # Too little memory for a graph is still enough to go on without.
        except RuntimeError as error:
            self._give_up(error.__context__ or error)
        _restore(state, after)
        return expected

    def _fill(self, inputs: Sequence[Tensor | None], draws: Draws | None) -> None:
        for place, value in zip(self._inputs, inputs, strict=True):
            if place is not None and value is not None:
                place.copy_(value)
        for kind, shape, place in self._notes:
            place.copy_(getattr(draws, kind)(shape, place.device))

    def _give_up(self, reason: str | BaseException) -> None:
        self._possible = False
        self.forget()
        log.warning(
            "The %s update cannot be a CUDA graph (%s): it runs kernel by kernel.",
            self._name,
            str(reason).partition("\n")[0].rstrip("."),
        )


def make_capturable(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer read its learning rate on the device, and count its steps there."""
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        if "capturable" in group:
            group["capturable"] = True
            for parameter in group["params"]:
                count = optimizer.state.get(parameter, {}).get("step")
                if isinstance(count, Tensor):
                    optimizer.state[parameter]["step"] = count.to(device, torch.float32)
    # Until they are recorded updates run without a graph, of which torch would warn.
    optimizer._warned_capturable_if_run_uncaptured = True


def portable_state(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state as it is on every device."""
    groups = []
    for group in state["param_groups"]:
        if isinstance(group["lr"], Tensor):
            group = {**group, "lr": float(group["lr"])}
            group.update({"capturable": False} if "capturable" in group else {})
        groups.append(group)
    return {**state, "param_groups": groups}


class _Noted:
    """Random numbers, and a note of every one that was asked for."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self.notes: list[tuple[str, tuple[int, ...], Tensor]] = []

    @property
    def places(self) -> list[Tensor]:
        return [place for _, _, place in self.notes]

    def normal(self, shape: Sequence[int], device: torch.device) -> Tensor:
        return self._note("normal", shape, device)

    def uniform(self, shape: Sequence[int], device: torch.device) -> Tensor:
        return self._note("uniform", shape, device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._draws, name)

    def _note(self, kind: str, shape: Sequence[int], device: torch.device) -> Tensor:
        value: Tensor = getattr(self._draws, kind)(shape, device)
        self.notes.append((kind, tuple(shape), value.clone()))
        return value


class _Given:
    """The places of noted numbers, in their order."""

    def __init__(self, places: Sequence[Tensor]) -> None:
        self._places = iter(places)

    def normal(self, shape: Sequence[int], device: torch.device) -> Tensor:
        return self.uniform(shape, device)

    def uniform(self, shape: Sequence[int], device: torch.device) -> Tensor:
        place = next(self._places, None)
        if place is None:
            raise RuntimeError("a constraint draws another number of times in every update")
        return place

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"a constraint draws random numbers by {name}, which runs on the CPU")


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _restore(tensors: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
    for tensor, copy in zip(tensors, copies, strict=True):
        tensor.copy_(copy)


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether two results are equal but for the order in which kernels add."""
    least = 1e-3 * float(expected.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return torch.allclose(found, expected, rtol=1e-2, atol=least, equal_nan=True)


def _moved_alike(
    state: Sequence[Tensor], before: Sequence[Tensor], after: Sequence[Tensor]
) -> bool:
    """Whether the state's tensors, all `before` a moment ago, moved as they did to be `after`.

    Roughly: weights whose gradient is rounding alone take whole steps of RMSprop and Adam, in which
    the same update run twice may differ.
    """
    for found, first, last in zip(state, before, after, strict=True):
        one, other = (tensor.double() - first.double() for tensor in (found.detach(), last))
        if not float((one - other).norm()) <= 0.7 * float(other.norm()):
            return False
    return True
