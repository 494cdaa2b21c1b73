"""Record a whole update as a CUDA graph and replay it.

An update of these networks is some hundred kernels of a few microseconds, and launching them from
Python takes longer than running them. A graph launches all of them at once. Critic and generator
updates have separate graphs, so n_critic may change from step to step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wgan_cli.out_of_memory import is_out_of_memory
from wgan_cli.randomness import Draws

log = logging.getLogger(__name__)

# The first calls run kernel by kernel, while libraries choose kernels and optimizers make state.
WARM_UP = 3

Update = Callable[..., Tensor]


class CudaGraph:
    """Records the kernels that an update launches, and launches them again."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def rehearse(self, update: Callable[[], Tensor]) -> Tensor:
        """Run an update. Raise `RuntimeError` if it waits for the device: no graph can do that."""
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return update()
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def record(self, update: Callable[[], Tensor]) -> Tensor:
        """Record an update without running it; return the tensor that replays will fill."""
        # Other threads, such as one that pins batches, may call CUDA meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            return update()

    def replay(self) -> None:
        """Launch all recorded kernels at once."""
        self._graph.replay()


class GraphedUpdate:
    """An update that is recorded once and replayed from then on.

    `update` is called as `update(*inputs, draws=draws)`, or without draws. Inputs and random
    numbers are copied to where the graph reads them; weights, optimizer state and learning rate
    must stay in the same memory. The first replay is compared with the same update run kernel by
    kernel, by its result and by `state()`, the tensors that it changes. If they differ, or if the
    update cannot be recorded, a warning is logged and updates run kernel by kernel.
    """

    def __init__(
        self,
        name: str,
        update: Update,
        state: Callable[[], list[Tensor]],
        graph: type[CudaGraph] = CudaGraph,
    ) -> None:
        self._name = name
        self._update = update
        self._state = state
        self._new_graph = graph
        self._possible = True
        self.reset()

    def reset(self) -> None:
        """Record again in later calls, because tensors that the update reads have moved."""
        self._calls = 0
        self._graph: CudaGraph | None = None
        self._inputs: list[Tensor | None] = []
        self._recorded: list[_RandomNumbers] = []
        self._result = torch.empty(0)

    def __call__(self, *inputs: Tensor | None, draws: Draws | None = None) -> Tensor:
        """Run the update on these inputs, whose shapes are the same in every call."""
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
        """Run the update kernel by kernel, record it, and check that a replay does the same."""
        state = self._state()
        before = _copies(state)
        recorder = None if draws is None else _RecordingDraws(draws)
        graph = self._new_graph()
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
        # Memory that is too small for a graph may still be enough without one.
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
            self._name,
            str(reason).partition("\n")[0].rstrip("."),
        )


def make_capturable(optimizer: torch.optim.Optimizer) -> None:
    """Move an optimizer's learning rate and step count to the device, where a graph reads them."""
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        if "capturable" in group:
            group["capturable"] = True
            for parameter in group["params"]:
                count = optimizer.state.get(parameter, {}).get("step")
                if isinstance(count, Tensor):
                    optimizer.state[parameter]["step"] = count.to(device, torch.float32)
    # The first updates run without a graph; torch would warn about that.
    optimizer._warned_capturable_if_run_uncaptured = True


def portable_state(state: dict[str, Any]) -> dict[str, Any]:
    """Undo `make_capturable` in an optimizer's state dict: its learning rate is a number again."""
    groups = []
    for group in state["param_groups"]:
        if isinstance(group["lr"], Tensor):
            group = {**group, "lr": float(group["lr"])}
            group.update({"capturable": False} if "capturable" in group else {})
        groups.append(group)
    return {**state, "param_groups": groups}


class _RandomNumbers(NamedTuple):
    """Random numbers that an update asked for, and the tensor in which a graph reads them."""

    kind: str
    shape: tuple[int, ...]
    buffer: Tensor


class _RecordingDraws:
    """Gives the random numbers of `draws` and records each request."""

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
    """Gives the buffers of recorded random numbers, in their order."""

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
    """Whether two results are equal up to the order in which kernels add."""
    tolerance = 1e-3 * float(expected.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return torch.allclose(result, expected, rtol=1e-2, atol=tolerance, equal_nan=True)


def _moved_alike(
    state: Sequence[Tensor], before: Sequence[Tensor], after: Sequence[Tensor]
) -> bool:
    """Whether the state moved from `before` about as far, and in the same direction, as to `after`.

    The tolerance is wide: RMSprop and Adam make full steps also for gradients that are rounding
    errors, in which two runs of the same update may differ.
    """
    for now, start, expected in zip(state, before, after, strict=True):
        step, expected_step = (end.double() - start.double() for end in (now.detach(), expected))
        # A norm that is NaN does not pass either.
        if not float((step - expected_step).norm()) <= 0.7 * float(expected_step.norm()):
            return False
    return True
