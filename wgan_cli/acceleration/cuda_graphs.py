"""Record an update as a CUDA graph and replay it.

An update launches several hundred kernels of a few microseconds each. Launching these kernels from
Python takes longer than running them, but a graph launches all of them at once. The critic and
generator updates have separate graphs, so n_critic may change from step to step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wgan_cli.out_of_memory import is_out_of_memory
from wgan_cli.randomness import Draws

log = logging.getLogger(__name__)

# In the first calls, libraries choose kernels and optimizers create state. No graph is used yet.
WARM_UP = 3


class CudaGraph:
    """Records the kernels that an update launches, and replays them."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def rehearse(self, update: Callable[[], Tensor]) -> Tensor:
        """Run an update and return its result. Raise `RuntimeError` if it waits for the device.

        An update that waits for the device cannot be recorded.
        """
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return update()
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def record(self, update: Callable[[], Tensor]) -> Tensor:
        """Record an update without running it; return the tensor into which replays write."""
        # Other threads, such as the one that pins batches, may call CUDA during the recording.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            return update()

    def replay(self) -> None:
        """Launch all recorded kernels at once."""
        self._graph.replay()


@dataclass(eq=False)
class GraphedUpdate:
    """An update that is recorded once and replayed from then on.

    `update` is called as `update(*inputs, draws=draws)`, or as `update(*inputs)` without draws.
    Inputs and random numbers are copied into the graph's buffers. Weights, optimizer state and
    learning rate must stay in the same memory. `state()` returns the tensors that the update
    changes. The result and these tensors are compared between the first replay and the same update
    without a graph. If they differ, or if the update cannot be recorded, a warning is logged and no
    graph is used.
    """

    name: str
    update: Callable[..., Tensor]
    state: Callable[[], list[Tensor]]
    new_graph: type[CudaGraph] = CudaGraph

    def __post_init__(self) -> None:
        self._possible = True
        self.reset()

    def reset(self) -> None:
        """Delete the graph; later calls record a new one. Call this if tensors were moved."""
        self._calls = 0
        self._graph: CudaGraph | None = None
        self._inputs: list[Tensor | None] = []
        self._recorded: list[_RandomNumbers] = []
        self._result = torch.empty(0)

    def __call__(self, *inputs: Tensor | None, draws: Draws | None = None) -> Tensor:
        """Run the update and return its result. The inputs have the same shapes in every call."""
        self._calls += 1
        if not self._possible or self._calls <= WARM_UP:
            return self._run(inputs, draws)
        if self._graph is None:
            return self._record(inputs, draws)
        self._fill(inputs, draws)
        self._graph.replay()
        return self._result

    def _run(self, inputs: Sequence[Tensor | None], draws: Any) -> Tensor:
        return self.update(*inputs) if draws is None else self.update(*inputs, draws=draws)

    def _record(self, inputs: Sequence[Tensor | None], draws: Draws | None) -> Tensor:
        """Run the update without a graph, record it, check a replay, and return the result."""
        state = self.state()
        before = _copies(state)
        recorder = None if draws is None else _RecordingDraws(draws)
        graph = self.new_graph()
        try:
            expected = graph.rehearse(lambda: self._run(inputs, recorder)).clone()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            _restore(state, before)
            self._give_up(error)
            return self._run(inputs, draws)
        after = _copies(state)
        self._inputs = [None if each is None else each.clone() for each in inputs]
        self._recorded = [] if recorder is None else recorder.recorded
        try:
            self._result = graph.record(
                lambda: self._run(self._inputs, recorder and _GivenDraws(recorder.recorded))
            )
            _restore(state, before)
            graph.replay()
            if _close(self._result, expected) and _moved_alike(state, before, after):
                self._graph = graph
                return self._result
            self._give_up("its replay computes something else")
        # Catch out-of-memory errors too: without a graph the memory may be enough.
        except RuntimeError as error:
            self._give_up(error.__context__ or error)
        _restore(state, after)
        return expected

    def _fill(self, inputs: Sequence[Tensor | None], draws: Draws | None) -> None:
        for buffer, value in zip(self._inputs, inputs, strict=True):
            if buffer is not None and value is not None:
                buffer.copy_(value)
        for numbers in self._recorded:
            buffer = numbers.buffer
            buffer.copy_(getattr(draws, numbers.kind)(numbers.shape, buffer.device))

    def _give_up(self, reason: str | BaseException) -> None:
        self._possible = False
        self.reset()
        log.warning(
            "The %s update cannot be a CUDA graph (%s): it runs kernel by kernel.",
            self.name,
            str(reason).partition("\n")[0].rstrip("."),
        )


def make_capturable(optimizer: torch.optim.Optimizer) -> None:
    """Move an optimizer's learning rate and step count to the device, for use in graphs."""
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        if "capturable" in group:
            group["capturable"] = True
            for parameter in group["params"]:
                count = optimizer.state.get(parameter, {}).get("step")
                if isinstance(count, Tensor):
                    optimizer.state[parameter]["step"] = count.to(device, torch.float32)
    # Do not let torch warn that the first updates run without a graph.
    optimizer._warned_capturable_if_run_uncaptured = True


def portable_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state dict without the changes of `make_capturable`."""
    groups = []
    for group in state["param_groups"]:
        if isinstance(group["lr"], Tensor):
            group = {**group, "lr": float(group["lr"])}
            group.update({"capturable": False} if "capturable" in group else {})
        groups.append(group)
    return {**state, "param_groups": groups}


class _RandomNumbers(NamedTuple):
    """A request for random numbers, and the buffer from which the graph reads them."""

    kind: str
    shape: tuple[int, ...]
    buffer: Tensor


class _RecordingDraws:
    """Returns random numbers from `draws` and records each request."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self.recorded: list[_RandomNumbers] = []

    def __getattr__(self, name: str) -> Any:
        if name not in ("normal", "uniform"):
            return getattr(self._draws, name)

        def recorded(shape: Sequence[int], device: torch.device) -> Tensor:
            value: Tensor = getattr(self._draws, name)(shape, device)
            self.recorded.append(_RandomNumbers(name, tuple(shape), value.clone()))
            return value

        return recorded


class _GivenDraws:
    """Returns the buffers of recorded random numbers in the order of the requests."""

    def __init__(self, recorded: Sequence[_RandomNumbers]) -> None:
        self._buffers = iter([numbers.buffer for numbers in recorded])

    def normal(self, shape: Sequence[int], device: torch.device) -> Tensor:
        buffer = next(self._buffers, None)
        if buffer is None:
            raise RuntimeError("a constraint draws another number of times in every update")
        return buffer

    uniform = normal

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"a constraint draws random numbers by {name}, which runs on the CPU")


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _restore(tensors: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
    for tensor, copy in zip(tensors, copies, strict=True):
        tensor.copy_(copy)


def _close(result: Tensor, expected: Tensor) -> bool:
    """Return True if two results differ only by rounding."""
    tolerance = 1e-3 * float(expected.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return torch.allclose(result, expected, rtol=1e-2, atol=tolerance, equal_nan=True)


def _moved_alike(
    state: Sequence[Tensor], before: Sequence[Tensor], after: Sequence[Tensor]
) -> bool:
    """Return True if `state` - `before` is about the same as `after` - `before`.

    The tolerance is wide, because two runs of an update differ by rounding, and RMSprop and Adam
    make a full step even if a gradient is only a rounding error.
    """
    for now, start, expected in zip(state, before, after, strict=True):
        step, expected_step = (end.double() - start.double() for end in (now.detach(), expected))
        # Use `not`, so that the comparison also fails for a NaN norm.
        if not float((step - expected_step).norm()) <= 0.7 * float(expected_step.norm()):
            return False
    return True
