"""The facts about GPUs in `environment.json`, with fakes in place of torch's functions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from wgan_cli import gpu_facts as facts

OPEN = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder)
GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)
"""
PROPRIETARY = """\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023
GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)
"""


@pytest.fixture
def no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither the driver's file nor nvidia-smi is there. Return where the file is looked for."""
    monkeypatch.setattr(facts, "_DRIVER_FILE", tmp_path / "version")
    monkeypatch.setattr(facts, "_DRIVER_QUERY", (str(tmp_path / "nvidia-smi"), "--query"))
    return tmp_path / "version"


@pytest.fixture
def two_gpus(no_driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_driver.write_text(OPEN, encoding="utf-8")
    sizes = {None: 80, 0: 80, 1: 141}

    def properties(device: torch.device) -> SimpleNamespace:
        memory = sizes[device.index]
        return SimpleNamespace(name=f"GPU of {memory}", major=9, minor=0, total_memory=memory)

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(torch.version, "cuda", "13.0")


@pytest.mark.parametrize(("text", "version"), [(OPEN, "570.86.15"), (PROPRIETARY, "535.104.05")])
def test_the_kernel_module_tells_the_drivers_version(no_driver: Path, text: str, version: str):
    no_driver.write_text(text, encoding="utf-8")
    assert facts.driver_version() == version


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo 570.86.15; echo 570.86.15", "570.86.15"),
        ("true", None),
        ("echo failed; exit 9", None),
        ("exec sleep 60", None),
    ],
)
def test_else_nvidia_smi_is_asked(
    no_driver: Path, script: str, version: str | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(facts, "_QUERY_SECONDS", 0.5)
    assert facts.driver_version() is None
    smi = no_driver.with_name("nvidia-smi")
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)
    assert facts.driver_version() == version


@pytest.mark.usefixtures("two_gpus")
def test_the_gpus_of_a_run_are_those_it_uses():
    first = {"name": "GPU of 80", "compute_capability": "9.0", "memory": 80}
    second = {"name": "GPU of 141", "compute_capability": "9.0", "memory": 141}
    versions = {"driver": "570.86.15", "cuda": "13.0", "cudnn": "9.10.2"}
    for device, local_world, gpus in (
        ("cuda", 1, [first]),
        ("cuda:1", 1, [second]),
        ("cuda:0", 2, [first, second]),
    ):
        found = facts.gpu_facts(torch.device(device), local_world)
        assert found == {"gpus": gpus, **versions}


def test_a_run_on_the_cpu_asks_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA was initialised"))
    monkeypatch.setattr(facts, "driver_version", lambda: pytest.fail("the driver was asked"))
    assert facts.gpu_facts(torch.device("cpu"), 2) == {}
