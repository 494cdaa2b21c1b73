"""Part 1: the device, versions and flags; that fp32 is real fp32; the device's ceilings."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.gpu.compare import relative_error
from benchmarks.gpu.records import Work, in_short
from benchmarks.measuring import copy_rate, matrix_rate, tutorial_precision
from benchmarks.workloads import composed
from wgan_cli.cores import usable_cores

# Products of float32 numbers err by some 1e-7 to 1e-6 of themselves, those of TF32, which has ten
# bits of mantissa, by about 3e-4.
REAL_FP32, SEEN_TF32 = 1e-5, 1e-4


def run(work: Work) -> None:
    """Run the part."""
    report = work.report
    versions(work)
    _, device = composed(["device=cuda"])
    report.fact("flags", flags())
    report.attempt("cudnn.allow_tf32 can be read", lambda: torch.backends.cudnn.allow_tf32)
    report.attempt("matmul.allow_tf32 can be read", lambda: torch.backends.cuda.matmul.allow_tf32)
    report.attempt("cudnn.flags() can be entered", _enter_cudnn_flags)
    report.check("cudnn.flags() leaves the flags alone", *_flags_before_and_after())
    for name, compute in OPERATIONS.items():
        _fp32(work, name, compute, device)
    with tutorial_precision(device):
        error = _error(OPERATIONS["convolution"], device)
    report.check(
        "the textbook loop's convolutions are TF32",
        SEEN_TF32 < error < 1e-2,
        error,
        f"between {SEEN_TF32:g} and 0.01 from float64",
        numbers=True,
    )
    error = _error(OPERATIONS["convolution"], device)
    report.check(
        "fp32 convolution after it", error < REAL_FP32, error, f"< {REAL_FP32:g}", numbers=True
    )
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        if work.has(3, f"ceiling of {name} products"):
            rate = matrix_rate(device, dtype) / 1e12
            report.fact(f"{name} products, TFLOP/s", round(rate, 1))
    report.fact("copy on the device, GB/s", round(copy_rate(device) / 1e9, 1))


def versions(work: Work) -> None:
    """Write the facts of the device, the driver and the software."""
    properties = torch.cuda.get_device_properties(0)
    work.report.fact("device", properties.name)
    work.report.fact("capability", f"{properties.major}.{properties.minor}")
    work.report.fact("memory, GiB", round(properties.total_memory / 2**30, 1))
    work.report.fact("multiprocessors", properties.multi_processor_count)
    work.report.fact("devices", torch.cuda.device_count())
    work.report.fact("driver", _nvidia_smi())
    work.report.fact("torch", f"{torch.__version__}, CUDA {torch.version.cuda}")
    work.report.fact("cuDNN", torch.backends.cudnn.version())
    work.report.fact("python", platform.python_version())
    work.report.fact("cores", usable_cores())


def flags() -> dict[str, object]:
    """The precision and kernel flags that decide what fp32 means."""
    cudnn = torch.backends.cudnn
    return {
        "matmul": torch.backends.cuda.matmul.fp32_precision,
        "conv": cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "rnn": cudnn.rnn.fp32_precision,  # type: ignore[attr-defined]
        "cudnn.benchmark": cudnn.benchmark,
        "cudnn.deterministic": cudnn.deterministic,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _enter_cudnn_flags() -> None:
    with torch.backends.cudnn.flags(enabled=True):
        pass


def _flags_before_and_after() -> tuple[bool, object, object]:
    before = flags()
    try:
        _enter_cudnn_flags()
    except RuntimeError as error:
        return False, in_short(error), before
    return flags() == before, flags(), before


def _product(tensors: list[Tensor]) -> list[Tensor]:
    return [tensors[0][:, :256] @ tensors[1][:256]]


def _convolution(tensors: list[Tensor]) -> list[Tensor]:
    images = tensors[0].reshape(16, 64, 32, 32)
    weight = tensors[1].flatten()[: 64 * 64 * 16].reshape(64, 64, 4, 4).clone().requires_grad_()
    maps = functional.conv2d(images, weight, stride=2, padding=1)
    maps.backward(tensors[2].flatten()[: maps.numel()].view_as(maps))
    assert weight.grad is not None
    return [maps, weight.grad]


def _lstm(tensors: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(0)
    layer = nn.LSTM(64, 256).double().to(tensors[0])
    inputs = tensors[0].flatten()[: 16 * 32 * 64].reshape(16, 32, 64)
    return [layer(inputs)[0]]


OPERATIONS: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {
    "matmul": _product,
    "convolution": _convolution,
    "LSTM": _lstm,
}


def _error(compute: Callable[[list[Tensor]], list[Tensor]], device: torch.device) -> float:
    """The largest relative error of an operation's float32 results, against float64 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randn(1024, 1024, generator=generator) for _ in range(3)]
    found = compute([each.to(device) for each in numbers])
    exact = compute([each.double() for each in numbers])
    return max(relative_error(*pair) for pair in zip(found, exact, strict=True))


def _fp32(
    work: Work,
    name: str,
    compute: Callable[[list[Tensor]], list[Tensor]],
    device: torch.device,
) -> None:
    wanted = f"< {REAL_FP32:g} from float64"
    try:
        error = _error(compute, device)
    except RuntimeError as failure:
        work.report.check(f"fp32 {name}", False, in_short(failure), wanted, numbers=True)
        return
    work.report.check(f"fp32 {name}", error < REAL_FP32, error, wanted, numbers=True)


def _nvidia_smi() -> object:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "nvidia-smi was not found"
    asked = "driver_version,power.limit,clocks.max.sm,clocks.max.memory,utilization.gpu,memory.used"
    try:
        answer = subprocess.run(
            [program, f"--query-gpu={asked}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return in_short(error)
    return dict(zip(asked.split(","), answer.stdout.strip().split(", "), strict=False))
