"""Record what a function launches as a CUDA graph, and replay it.

A training step launches hundreds or thousands of kernels of a few microseconds each. Launching
these from Python takes longer than running them, but a graph launches all of them at once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch.torch_version import TorchVersion

from wgan_cli.acceleration.sync_debug import waits_are_errors

# From torch 2.14 on, a graph registers the generators that it uses by itself.
_REGISTERS_GENERATORS = TorchVersion(torch.__version__) < "2.14"


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
            self._graph,
            stream=_recording_stream(stream.device_index),
            capture_error_mode="thread_local",
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


@cache
def _recording_stream(device_index: int) -> torch.cuda.Stream:
    """Return the stream for all recordings on a device. Libraries keep memory for each stream."""
    return torch.cuda.Stream(device_index)


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
