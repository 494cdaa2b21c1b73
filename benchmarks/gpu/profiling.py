"""What a step does on the device: kernels, launches, synchronisations, memory."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# Calls of the CUDA runtime in which the host launches work, and in which it waits.
_LAUNCHES = (
    "cudaLaunchKernel",
    "cudaLaunchKernelExC",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cudaGraphLaunch",
)
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
_SYNC_WARNING = "synchronizing CUDA operation"


def synchronisations(step: Callable[[], object], steps: int = 5) -> tuple[float, list[str]]:
    """How often torch waits for the device in a step, and the first lines of code that do."""
    before = torch.cuda.get_sync_debug_mode()
    places: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(steps):
                step()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for each in caught:
        if _SYNC_WARNING in str(each.message):
            places[f"{each.filename.rpartition('/')[2]}:{each.lineno}"] += 1
    total = sum(places.values())
    return total / steps, [f"{place} x{count / steps:g}" for place, count in places.most_common(5)]


def parts_of_step(step: Callable[[], object], steps: int = 5) -> dict[str, Any]:
    """A step's kernels, their time by name, and the calls that launch and wait; empty if unknown.

    Times are milliseconds a step. `busy` is the time in which at least one kernel or copy runs.
    """
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    events = trace.events() or []
    # An optimizer's step, for example, is also shown as a range on the device.
    on_device = [
        event
        for event in events
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    kernels = [e for e in on_device if not e.name.startswith(("Memcpy", "Memset"))]
    if not kernels:
        return {}
    calls = Counter(event.name for event in events if event.device_type == DeviceType.CPU)
    times: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for event in kernels:
        times[event.name] += event.time_range.end - event.time_range.start
        counts[event.name] += 1
    top = sorted(times, key=lambda name: -times[name])[:8]
    spans = ((e.time_range.start, e.time_range.end) for e in on_device)
    return {
        "kernels": len(kernels) / steps,
        "copies": (len(on_device) - len(kernels)) / steps,
        "kernel_ms": sum(times.values()) / 1e3 / steps,
        "busy_ms": covered(spans) / 1e3 / steps,
        "launches": sum(calls[name] for name in _LAUNCHES) / steps,
        # The one at the end of the trace is not the step's.
        "waits": max(sum(calls[name] for name in _WAITS) - 1, 0) / steps,
        "copy_calls": calls["cudaMemcpyAsync"] / steps,
        "top": {
            name[:80]: {"ms": times[name] / 1e3 / steps, "times": counts[name] / steps}
            for name in top
        },
    }


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The total length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        if stop > end:
            total += stop - max(start, end)
            end = stop
    return total


def peak_of(build: Callable[[], Callable[[], object]], steps: int) -> tuple[Any, float]:
    """Build a loop, take some steps, and return its step and the peak MiB it took on the device."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step = build()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return step, (torch.cuda.max_memory_allocated() - before) / 2**20
