"""Record a whole training step as a CUDA graph and replay it.

A step launches hundreds or thousands of kernels of a few microseconds each. Launching these kernels
from Python takes longer than running them, but a graph launches all of them at once.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from wgan_cli.acceleration.capturable import (
    HostNumbers,
    count_on_host,
    rates_on_device,
    rates_on_host,
    takes_rate_on_device,
)
from wgan_cli.acceleration.sync_debug import waits_are_errors
from wgan_cli.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

# In the first steps, libraries choose kernels and optimizers create state. No graph is used yet.
WARM_UP = 3
# The largest difference between a replay and the step itself, as a share of the step.
_STATES_ALIKE, _SUMS_ALIKE = 0.7, 0.05
# From torch 2.14 on, a graph registers the generators that it uses by itself.
_REGISTERS_GENERATORS = TorchVersion(torch.__version__) < "2.14"
# With more critic updates in a step, its graph and its staged data would be very large.
MOST_UPDATES = 200


class CudaGraph:
    """Records the kernels that a function launches, and replays them."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def rehearse(self, step: Callable[[], None]) -> None:
        """Run a step. Raise `RuntimeError` if it waits for the device.

        A step that waits for the device cannot be recorded.
        """
        with waits_are_errors():
            step()

    def record(self, step: Callable[[], None], generator: torch.Generator) -> None:
        """Record a step without running it. Each replay uses the current state of `generator`.

        If this fails, torch's current stream is as before, and the generators begin anew.
        """
        if _REGISTERS_GENERATORS:
            self._graph.register_generator_state(generator)
        stream = torch.cuda.current_stream()
        # Without a stream given here, torch would use one of the device of its first graph. Other
        # threads, such as the one that pins batches, may call CUDA during the recording.
        recording = torch.cuda.graph(
            self._graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"
        )
        try:
            with _no_garbage_collection(), recording:
                step()
        except BaseException:
            # After a failed recording, torch 2.11 takes both generators as still being recorded.
            default = torch.cuda.default_generators[stream.device_index]
            for spoiled in (default, generator):
                fresh = torch.Generator(stream.device).manual_seed(spoiled.initial_seed())
                spoiled.graphsafe_set_state(fresh.graphsafe_get_state())
            raise
        finally:
            torch.cuda.set_stream(stream)

    def replay(self) -> None:
        """Launch all recorded kernels at once."""
        self._graph.replay()


class RecordedStep(Protocol):
    """A step that `StepGraphs` runs, records and replays."""

    def run(self) -> None:
        """Run the step on the device. What it does on the host must not matter for later steps."""

    def repeat(self) -> None:
        """Prepare to run the same step again. Its random numbers are then the same."""

    @property
    def generator(self) -> torch.Generator:
        """The generator of the step's random numbers on the device."""

    def changed_tensors(self) -> ChangedTensors:
        """Return the tensors that the step changes."""

    def host_places(self) -> list[dict[str, Any]]:
        """Return the dicts in which parts of the step, such as optimizers, may keep numbers."""


class ChangedTensors(NamedTuple):
    """The tensors that a step changes, by how exactly two runs of the step agree in them.

    Two runs of a step differ by rounding, since some kernels add in another order each time. For
    the weights and optimizer states (`states`) this can matter much: RMSprop and Adam make a full
    step even if a gradient is only a rounding error. The sums of losses (`sums`) agree better.
    `derived` tensors are copies of weights, which say nothing new.
    """

    states: list[Tensor]
    sums: list[Tensor]
    derived: list[Tensor]


@dataclass(eq=False)
class StepGraphs:
    """Runs steps as CUDA graphs: one graph for each number of critic updates in a step.

    The first `WARM_UP` steps run kernel by kernel. The first step with a given number of updates is
    recorded after it ran. The next step with this number runs both ways, and its results are
    compared. If they differ, or a step cannot be recorded, a warning is logged and all steps run
    kernel by kernel from then on.

    The optimizers' learning rates are on the device while graphs are used. Weights, optimizer state
    and inputs must stay at the same address; call `reset` if they were moved.
    """

    optimizers: Sequence[torch.optim.Optimizer]
    new_graph: type[CudaGraph] = CudaGraph
    possible: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Delete the graphs; later steps record new ones."""
        self._steps = 0
        self._graphs: dict[int, CudaGraph] = {}
        self._checked: set[int] = set()

    def run(self, step: RecordedStep, updates: int) -> None:
        """Run a step that has `updates` critic updates."""
        if self.possible and self._steps == 0:
            self._move_rates()
        self._steps += 1
        graph = self._graphs.get(updates)
        if not self.possible or self._steps <= WARM_UP:
            step.run()
        elif graph is None:
            self._record(step, updates)
        elif updates not in self._checked:
            self._check(step, updates, graph)
        else:
            graph.replay()

    def _move_rates(self) -> None:
        # In the warm-up too, so that a resumed run computes what an uncut one does, bit for bit.
        for optimizer in self.optimizers:
            if not takes_rate_on_device(optimizer):
                name = type(optimizer).__name__
                self._give_up(f"{name} does not take a learning rate on the device")
                return
        rates_on_device(self.optimizers)

    def _record(self, step: RecordedStep, updates: int) -> None:
        """Run the step kernel by kernel, then record it."""
        # A graph of an earlier run of a sweep, or memory of a failed recording, may be garbage.
        gc.collect()
        everything = [each for kind in step.changed_tensors() for each in kind]
        graph, before = self.new_graph(), _copies(everything)
        numbers = HostNumbers(step.host_places())
        try:
            graph.rehearse(step.run)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            _restore(everything, before)
            numbers.restore()
            self._give_up(error)
            step.repeat()
            step.run()
            return
        del before
        names = [numbers.changed(), *map(count_on_host, self.optimizers)]
        if count := next(filter(None, names), None):
            self._give_up(f"a number on the host changes in every step: {count}")
            return
        step.repeat()
        try:
            graph.record(step.run, step.generator)
        # Catch out-of-memory errors too: without a graph the memory may be enough.
        except RuntimeError as error:
            self._give_up(error.__context__ or error)
        else:
            self._graphs[updates] = graph

    def _check(self, step: RecordedStep, updates: int, graph: CudaGraph) -> None:
        """Run the step as a graph and twice kernel by kernel, and compare. Keep the last result."""
        changed = step.changed_tensors()
        everything = [*changed.states, *changed.sums, *changed.derived]
        before = _copies(everything)
        graph.replay()
        runs = [_copies(everything)]
        for _ in range(2):
            _restore(everything, before)
            step.repeat()
            step.run()
            runs.append(_copies(everything))
        count = len(changed.states)
        tolerances = [_STATES_ALIKE] * count + [_SUMS_ALIKE] * len(changed.sums)
        if all(map(_alike, before, *runs, tolerances)):
            self._checked.add(updates)
            plural = "s" if updates > 1 else ""
            log.info("CUDA graph: a step with %d critic update%s is replayed.", updates, plural)
        else:
            self._give_up("its replay computes something else")

    def _give_up(self, reason: str | BaseException) -> None:
        self.possible = False
        self.reset()
        rates_on_host(self.optimizers)
        log.warning(
            "A training step cannot be a CUDA graph (%s): it runs kernel by kernel.",
            str(reason).partition("\n")[0].rstrip("."),
        )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect no garbage in the block: freeing an old graph during a recording spoils it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _restore(tensors: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
    for tensor, copy in zip(tensors, copies, strict=True):
        tensor.copy_(copy)


def _alike(start: Tensor, replayed: Tensor, run: Tensor, again: Tensor, tolerance: float) -> bool:
    """Return True if the replay moved a tensor from `start` about as two runs did.

    The difference may be the share `tolerance` of the movement, and three times the difference of
    the two runs.
    """
    if not torch.equal(replayed.isnan(), run.isnan()):
        return False
    movement = _distance(run, start)
    allowed = tolerance * movement + 3 * _distance(run, again)
    return _distance(replayed, run) <= allowed


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).nan_to_num(0.0).norm())
