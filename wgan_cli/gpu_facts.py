"""Facts about a run's GPUs: names, memory, and the versions of driver and libraries."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import torch

# Linux only: the kernel module tells its version here.
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
# Such as "NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build".
_DRIVER_VERSION = re.compile(r"Kernel Module\b.*?\s(\d+(?:\.\d+)+)\s")
_DRIVER_QUERY = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
_QUERY_SECONDS = 5


def gpu_facts(device: torch.device, local_world: int = 1) -> dict[str, Any]:
    """Return what `environment.json` says of a run's GPUs; {} if `device` is no CUDA device.

    `gpus` lists the GPUs of this machine that the run uses: that of `device`, or the first
    `local_world` if several processes of the run are on this machine. `memory` is in bytes.
    `driver` and `cudnn` are None if their versions are unknown; `cuda` is the version of the
    runtime.
    """
    if device.type != "cuda":
        return {}
    used = [device] if local_world == 1 else [torch.device("cuda", i) for i in range(local_world)]
    cudnn = torch.backends.cudnn.version()
    return {
        "gpus": [_gpu(each) for each in used],
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "cudnn": None if cudnn is None else _dotted(cudnn),
    }


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver, such as 570.86.15, or None if it is unknown."""
    try:
        found = _DRIVER_VERSION.search(_DRIVER_FILE.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    if found is not None:
        return found[1]
    try:
        answer = subprocess.run(
            _DRIVER_QUERY,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=_QUERY_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # One line for each GPU; all have the same driver.
    lines = answer.stdout.split()
    return lines[0] if lines else None


def _gpu(device: torch.device) -> dict[str, Any]:
    its = torch.cuda.get_device_properties(device)
    return {
        "name": its.name,
        "compute_capability": f"{its.major}.{its.minor}",
        "memory": its.total_memory,
    }


def _dotted(cudnn: int) -> str:
    """Return cuDNN's version number with dots: 9.10.2 for 91002. This holds from cuDNN 9 on."""
    return f"{cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}"
