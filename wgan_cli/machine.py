"""The machine a run gets: device, threads, precision and compiling, by a fixed table."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
from typing import Any

import torch

from wgan_cli.distributed.process import ALONE, Process
from wgan_cli.errors import ConfigError
from wgan_cli.schema import TrainConfig, traits

log = logging.getLogger(__name__)

# glibc's names of its settings, and the largest block that it can be told to keep.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 32 * 2**20


def choose_machine(config: TrainConfig, place: Process = ALONE) -> torch.device:
    """Fill in device, threads, precision and compile, and set torch up for them.

    The table behind `precision=auto` and `compile=null` is fixed (docs/performance.md): bf16 on
    a CPU that multiplies bfloat16, for networks whose traits allow it (all of this package's), else
    fp32, and no compiling anywhere.
    fp32 never uses TF32. `deterministic` and `graphs` concern CUDA alone. Where several processes
    train one run, each gets the GPU of its number on its machine.
    """
    if config.device == "auto":
        config.device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(config.device)
    if place.world > 1 and device.index is not None:
        raise ConfigError(
            f"device={config.device} is one GPU, and each of {place.world} processes needs its own:"
            " type device=cuda."
        )
    if place.world > 1 and device.type == "cuda":
        count = torch.cuda.device_count()
        if 0 < count < place.local_world:
            raise ConfigError(
                f"Each of the {place.local_world} processes needs its own GPU, and there are"
                f" {count} here: type --nproc-per-node={count}, or device=cpu."
            )
        device = torch.device("cuda", place.local_rank)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            there = f"there are {count}, counted from 0" if count else "none is available here"
            raise ConfigError(f"device={device}: no such CUDA device; {there}.")
        if place.world > 1:
            torch.cuda.set_device(device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    config.threads = torch.get_num_threads()
    if config.precision == "auto":
        quick = device.type == "cpu" and multiplies_bfloat16() and _suits_bf16(config.model)
        config.precision = "bf16" if quick else "fp32"
    if device.type == "cuda":
        if config.deterministic:
            # As torch's notes on reproducibility ask for; read when cuBLAS is first used.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(config.deterministic)
    if device.type == "cpu":
        _keep_memory()
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    if config.compile and device.type == "cpu" and not _cpp_compiler():
        log.info("compile=true needs a C++ compiler and none was found: running without compiling.")
        config.compile = False
    config.compile = bool(config.compile)
    return device


def unset_choices(config: TrainConfig) -> list[str]:
    """Of what `choose_machine` fills in and a run keeps, the settings that nobody has set."""
    return [key for key in ("precision", "threads") if getattr(config, key) in ("auto", None)]


def keep_choices(config: TrainConfig, saved: dict[str, Any], unset: list[str]) -> None:
    """For a run that goes on: what was chosen by the machine and the version that began it.

    `saved` is its config. A sweep's job may go on beside others, where it would get fewer threads,
    and the bits of a run depend on their number.
    """
    for key in unset:
        setattr(config, key, saved[key])
    torch.set_num_threads(config.threads or torch.get_num_threads())


def _suits_bf16(model: dict[str, Any]) -> bool:
    """Whether both networks compute well in bfloat16."""
    return all(traits("network", model[network]).bf16_copy for network in ("generator", "critic"))


def multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16 matrices."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def _keep_memory() -> None:
    """Let glibc, where it is in use, keep what is freed instead of giving it back to the kernel.

    Every step asks for the same blocks again, and each page that comes back is first filled with
    zeros: some ten thousand a step of a DCGAN.
    """
    try:
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        allocator.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError, TypeError):
        # Another C library.
        return


def _cpp_compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")
