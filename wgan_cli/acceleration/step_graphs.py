"""Run training steps as CUDA graphs: each is recorded once, checked, and replayed from then on."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from wgan_cli.acceleration.capturable import (
    HostState,
    count_on_host,
    rates_on_device,
    rates_on_host,
    takes_rate_on_device,
)
from wgan_cli.acceleration.cuda_graphs import CudaGraph
from wgan_cli.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

# In the first steps, libraries choose kernels and optimizers create state. No graph is used yet.
WARM_UP = 3
# With more critic updates in a step, its graph and its staged data would be very large.
MOST_UPDATES = 200
# The largest difference between a replay and the step itself, as a share of the step.
_STATES_ALIKE, _SUMS_ALIKE = 0.7, 0.05
_NO_MEMORY = "a graph needs more memory than there is"


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

    def all(self) -> list[Tensor]:
        """Return the tensors of all kinds, in this order."""
        return [*self.states, *self.sums, *self.derived]


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
        if not self.possible or self._steps <= WARM_UP:
            step.run()
        elif updates not in self._graphs:
            self._record(step, updates)
        elif updates not in self._checked:
            self._check(step, updates)
        else:
            self._graphs[updates].replay()

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
        _free_memory()
        host = HostState(step.host_places())
        changed = step.changed_tensors().all() + host.tensors()
        graph, before = self.new_graph(), _saved(changed)
        try:
            graph.rehearse(step.run)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            _restore(changed, before)
            host.restore()
            self._give_up(error)
            step.repeat()
            step.run()
            return
        moved = [tensor.data_ptr() for tensor in step.changed_tensors().all()]
        name = host.changed() or next(filter(None, map(count_on_host, self.optimizers)), None)
        if name is None and moved != [tensor.data_ptr() for tensor in changed[: len(moved)]]:
            name = "a state of an optimizer or a network"
        if name is not None:
            self._give_up(f"every step changes a number, or replaces a tensor, in Python: {name}")
            return
        step.repeat()
        try:
            graph.record(step.run, step.generator)
        # Catch out-of-memory errors too: without a graph the memory may be enough.
        except RuntimeError as error:
            del graph
            self._give_up(_NO_MEMORY if is_out_of_memory(error) else error.__context__ or error)
        else:
            self._graphs[updates] = graph

    def _check(self, step: RecordedStep, updates: int) -> None:
        """Run the step as a graph and twice kernel by kernel, and compare. Keep the last result."""
        kinds = step.changed_tensors()
        changed = kinds.all() + HostState(step.host_places()).tensors()
        before = _saved(changed)
        self._graphs[updates].replay()
        runs = [_saved(changed)]
        # The graph needs memory for the results of all its kernels.
        no_memory = False
        for _ in range(2):
            _restore(changed, before)
            step.repeat()
            try:
                step.run()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                no_memory = True
                break
            runs.append(_saved(changed))
        # Only here: an error keeps the tensors of the failed step.
        if no_memory:
            _restore(changed, before)
            step.repeat()
            self._give_up(_NO_MEMORY)
            step.run()
            return
        tolerances = [_STATES_ALIKE] * len(kinds.states) + [_SUMS_ALIKE] * len(kinds.sums)
        if all(map(_alike, before, *runs, tolerances)):
            self._checked.add(updates)
            plural = "s" if updates > 1 else ""
            log.info("CUDA graph: a step with %d critic update%s is replayed.", updates, plural)
        else:
            self._give_up("its replay computes something else")

    def _give_up(self, reason: str | BaseException) -> None:
        self.possible = False
        self.reset()
        _free_memory()
        rates_on_host(self.optimizers)
        log.warning(
            "A training step cannot be a CUDA graph (%s): it runs kernel by kernel.",
            str(reason).partition("\n")[0].rstrip("."),
        )


def _free_memory() -> None:
    """Free what only garbage refers to, such as the graphs of an earlier run of a sweep."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _saved(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of the tensors on the CPU, because memory on the device may be short."""
    return [tensor.detach().to("cpu", copy=True) for tensor in tensors]


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
