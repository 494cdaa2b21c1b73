"""Choose a run's device, threads, precision and compilation by fixed rules; set up torch."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from wgan_cli.acceleration.tf32 import use_ieee_float32
from wgan_cli.cores import local_processes, own_cores
from wgan_cli.distributed.process import ALONE, Process
from wgan_cli.errors import ConfigError
from wgan_cli.schema import TrainConfig, traits
from wgan_cli.waiting.monitor import watch_load

log = logging.getLogger(__name__)

# The numbers of two options of glibc's function mallopt, and the size in bytes of the largest
# freed block that glibc can keep for reuse.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 32 * 2**20
# The most threads that are of use in training, by work: (1e8, 2) means at most two threads for less
# than 1e8 multiply-adds in one pass of both networks over a batch. docs/performance.md has the
# measurements behind the table.
_THREADS_BY_WORK = ((1e8, 2), (5e8, 4), (5e9, 8))
LEAST_THREADS, _MOST_THREADS = 2, 16


@dataclass(frozen=True)
class Machine:
    """The values chosen for the settings `device`, `threads`, `precision` and `compile`.

    `threads` is None while it is open: it depends on the data, so `build.complete` chooses it.
    """

    device: str
    threads: int | None
    precision: str
    compile: bool


def find_device(name: str, process: Process = ALONE) -> torch.device:
    """Return this process's device for the setting `device=NAME`.

    If several processes train one run, each process gets the GPU whose index is its local rank.
    Raises `ConfigError` if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if process.world > 1 and device.index is not None:
        raise ConfigError(
            f"device={name} is one GPU, and each of {process.world} processes needs its own: type"
            " device=cuda."
        )
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if process.world > 1 and device.type == "cuda":
        if 0 < count < process.local_world:
            raise ConfigError(
                f"Each of the {process.local_world} processes needs its own GPU, and there are"
                f" {count} here: type --nproc-per-node={count}, or device=cpu."
            )
        device = torch.device("cuda", process.local_rank)
    if device.type == "mps":
        _check_mps(process)
    if device.type == "cuda" and (device.index or 0) >= count:
        known = f"there are {count}, counted from 0" if count else "none is available here"
        raise ConfigError(f"device={device}: no such CUDA device; {known}.")
    return device


def _check_mps(process: Process) -> None:
    if not torch.backends.mps.is_available():
        raise ConfigError(
            "device=mps: it is not available here; it needs macOS on a Mac with Apple's own chip."
        )
    if process.world > 1:
        raise ConfigError(
            f"device=mps is one GPU, and {process.world} processes cannot share it: type"
            " device=cpu."
        )


def choose_machine(
    config: TrainConfig, device: torch.device, saved: Mapping[str, Any] | None = None
) -> Machine:
    """Return the machine settings; choose those that the config leaves open, except `threads`.

    `saved` is the saved config of a resumed run. The run keeps its precision and number of threads,
    because its exact results depend on them. A new run follows fixed rules (docs/performance.md):
    the precision is bf16 if the device can multiply bfloat16 matrices fast and both networks have
    the trait `bf16_copy`, as all networks of this package do, and fp32 otherwise. Compilation is
    off unless the config turns it on. Raises `ConfigError` for bf16 on mps.
    """
    saved = saved or {}
    precision, threads = config.precision, config.threads
    if precision == "auto":
        networks = (config.model[network] for network in ("generator", "critic"))
        suited = all(traits("network", node).bf16_copy for node in networks)
        bf16 = suited and multiplies_bfloat16(device)
        precision = saved.get("precision") or ("bf16" if bf16 else "fp32")
    if precision == "bf16" and device.type == "mps":
        resumed = "" if config.precision == "bf16" else ", and this run keeps its bf16"
        raise ConfigError(
            f"device=mps computes in fp32 only{resumed}: type precision=fp32 or another device."
        )
    if threads is None:
        threads = saved.get("threads")
    compiling = bool(config.compile)
    if compiling and device.type == "mps":
        log.info("compile=true was not tried on mps: running without compiling.")
        compiling = False
    compilers = (os.environ.get("CXX", ""), "g++", "clang++")
    if compiling and device.type == "cpu" and not any(map(shutil.which, compilers)):
        log.info("compile=true needs a C++ compiler and none was found: running without compiling.")
        compiling = False
    name = device.type if config.device == "auto" else config.device
    return Machine(name, threads, precision, compiling)


def useful_threads(work: float) -> int:
    """Return how many threads at most are of use in training with so many multiply-adds."""
    return next((threads for end, threads in _THREADS_BY_WORK if work < end), _MOST_THREADS)


def most_threads() -> int:
    """Return the number of threads for work of any size: one for each core of this process.

    OMP_NUM_THREADS may lower it, and it is at most 16. torchrun sets the variable to 1 if the user
    has not set it; its processes share the cores instead.
    """
    stated = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    from_torchrun = stated == "1" and local_processes() > 1
    limit = int(stated) if stated.isdecimal() and not from_torchrun else 0
    return min(own_cores(), limit or _MOST_THREADS, _MOST_THREADS)


def use_threads(count: int) -> None:
    """Let torch use this many threads, which wait as the load of the machine suggests."""
    torch.set_num_threads(count)
    watch_load(count)


def set_up_torch(
    machine: Machine,
    device: torch.device,
    process: Process = ALONE,
    *,
    deterministic: bool = False,
) -> None:
    """Set up torch in this process for a run: threads, CUDA device, kernels and memory.

    While the number of threads is open, reading the data uses as many as this process may.
    Computations in fp32 do not use TF32. `deterministic` has an effect only on CUDA.
    """
    use_threads(machine.threads or most_threads())
    if device.type == "cuda":
        # Graphs and pinned memory use the current device. An earlier run of a sweep may have had
        # another, and garbage of that run may still take memory.
        torch.cuda.set_device(device.index or 0)
        gc.collect()
        _choose_kernels(deterministic=deterministic)
    else:
        keep_memory()
    use_ieee_float32()


def _choose_kernels(*, deterministic: bool) -> None:
    """Let CUDA use deterministic kernels only, or else the kernels that are fastest in a trial."""
    if deterministic:
        # torch's notes on reproducibility require this variable. cuBLAS reads it at its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # This would fill all new memory, to make errors of reading it repeat.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if torch.are_deterministic_algorithms_enabled() != deterministic:
        # The first call imports torch's compiler, which takes seconds.
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions that multiply bfloat16 matrices."""
    if device.type == "cuda":
        # Compute capability 8.0 is the first with tensor cores for bfloat16.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "mps":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def keep_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the kernel.

    Every step allocates the same blocks again. If they were returned, the kernel would have to zero
    all their pages each time: about ten thousand pages in each step of a DCGAN.
    """
    try:
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        allocator.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError, TypeError):
        # This C library is not glibc.
        return
