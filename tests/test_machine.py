"""What a config makes of the machine."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY, status_of

from wgan_cli.acceleration.tf32 import tf32_allowed
from wgan_cli.commands.train import run
from wgan_cli.config import configs_folder
from wgan_cli.distributed.process import Process
from wgan_cli.errors import ConfigError
from wgan_cli.machine import Machine, choose_machine, find_device, set_up_torch
from wgan_cli.schema import TrainConfig
from wgan_cli.training.failures import in_plain_words


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A machine that says it has one; nothing runs on it. The devices that were made current."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    fills, benchmark = torch.utils.deterministic, torch.backends.cudnn.benchmark
    filled = fills.fill_uninitialized_memory
    yield current
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark
    fills.fill_uninitialized_memory = filled


CPU = torch.device("cpu")
SETTINGS = TrainConfig(device="cpu", precision="auto", compile=False, threads=1)
MACHINE = Machine("cuda", threads=1, precision="fp32", compile=False)


@pytest.mark.usefixtures("one_gpu")
def test_deterministic_kernels_are_asked_for_and_the_next_run_of_a_sweep_is_free_of_them() -> None:
    device = find_device("auto")
    assert device.type == "cuda"
    set_up_torch(MACHINE, device, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    set_up_torch(MACHINE, find_device("cuda:0"))
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("one_gpu")
def test_deterministic_kernels_are_not_tried_out_and_fill_no_memory() -> None:
    """Filling new memory takes a third of a step's kernels and changes no result."""
    for deterministic in (False, True, False):
        set_up_torch(MACHINE, find_device("cuda"), deterministic=deterministic)
        assert torch.backends.cudnn.benchmark is not deterministic
        if deterministic:
            assert not torch.utils.deterministic.fill_uninitialized_memory


def test_a_gpu_that_is_named_becomes_the_current_one(
    one_gpu: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    set_up_torch(MACHINE, find_device("cuda:1"))
    set_up_torch(MACHINE, find_device("cuda", Process(1, 2, 1, 2)))
    # Without a number it is the first one, also after a job on another one.
    set_up_torch(MACHINE, find_device("cuda"))
    assert one_gpu == [1, 1, 0]


# Importing torch's compiler takes seconds.
START = """
import sys, torch
torch.cuda.set_device = lambda device: None
from wgan_cli.machine import Machine, set_up_torch
machine = Machine("cuda", threads=1, precision="fp32", compile=False)
set_up_torch(machine, torch.device("cuda:0"), deterministic=DETERMINISTIC)
print("torch._dynamo" in sys.modules, torch.are_deterministic_algorithms_enabled())
"""


@pytest.mark.parametrize("deterministic", [False, True])
def test_torchs_compiler_is_imported_only_for_deterministic_kernels(deterministic: bool) -> None:
    code = START.replace("DETERMINISTIC", str(deterministic))
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    imported, enabled = ran.stdout.split()
    assert enabled == str(deterministic)
    if not deterministic:
        assert imported == "False"


def switches() -> set[str]:
    cudnn = torch.backends.cudnn
    parts = torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn
    return {part.fp32_precision for part in parts}


def old_switches() -> set[bool]:
    """Reading these raises in torch if they disagree with the new ones."""
    return {torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32}


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize("device", [torch.device("cpu"), torch.device("cuda:0")])
def test_float32_is_float32_by_every_switch_of_torch(device: torch.device) -> None:
    set_up_torch(MACHINE, device)
    assert (switches(), old_switches()) == ({"ieee"}, {False})
    assert torch.get_float32_matmul_precision() == "highest"
    with torch.backends.cudnn.flags(enabled=True, benchmark=False):
        assert torch.backends.cudnn.allow_tf32
    set_up_torch(MACHINE, device)
    assert (switches(), old_switches()) == ({"ieee"}, {False})


def test_tf32_is_allowed_inside_a_block_only() -> None:
    class UnfitError(Exception):
        pass

    set_up_torch(dataclasses.replace(MACHINE, device="cpu"), CPU)
    with tf32_allowed():
        assert (switches(), old_switches()) == ({"tf32"}, {True})
    assert (switches(), old_switches()) == ({"ieee"}, {False})
    with pytest.raises(UnfitError), tf32_allowed():
        raise UnfitError
    assert (switches(), old_switches()) == ({"ieee"}, {False})


@pytest.mark.usefixtures("one_gpu")
def test_a_users_own_workspace_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    set_up_torch(MACHINE, find_device("cuda"), deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.usefixtures("one_gpu")
def test_more_processes_than_gpus_are_refused_on_all_of_them() -> None:
    for rank in range(2):
        with pytest.raises(ConfigError, match="--nproc-per-node=1"):
            find_device("cuda", Process(rank, 2, rank, 2))


def test_a_kernel_that_cannot_repeat_is_a_config_mistake() -> None:
    said = (
        "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you"
        " set 'torch.use_deterministic_algorithms(True)'."
    )
    answer = in_plain_words(RuntimeError(said), batch_size=4)
    assert isinstance(answer, ConfigError)
    assert "deterministic=true: adaptive_avg_pool2d_backward_cuda" in str(answer)


def test_it_is_off_unless_typed() -> None:
    assert "\ndeterministic: false\n" in (configs_folder() / "train.yaml").read_text()


@pytest.mark.parametrize(
    ("able", "critic", "precision"),
    [
        (True, "wgan_cli.models.mlp.Critic", "bf16"),
        (True, "mine.Critic", "fp32"),
        (False, "wgan_cli.models.mlp.Critic", "fp32"),
    ],
)
def test_the_table_behind_auto(
    able: bool, critic: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    networks = {"generator": "wgan_cli.models.mlp.Generator", "critic": critic}
    model = {name: {"_target_": target} for name, target in networks.items()}
    config = dataclasses.replace(SETTINGS, model=model)
    chosen = choose_machine(config, CPU)
    assert chosen == Machine("cpu", threads=1, precision=precision, compile=False)
    # A run that goes on keeps what it began with, unless it is typed.
    saved = {"precision": "fp32", "threads": 7}
    kept = choose_machine(dataclasses.replace(config, threads=None), CPU, saved)
    assert kept == Machine("cpu", threads=7, precision="fp32", compile=False)
    assert choose_machine(config, CPU, saved).threads == 1


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize(
    ("capability", "critic", "precision"),
    [
        ((7, 5), "wgan_cli.models.mlp.Critic", "fp32"),
        ((8, 0), "wgan_cli.models.mlp.Critic", "bf16"),
        ((9, 0), "wgan_cli.models.dcgan.Critic", "bf16"),
        ((9, 0), "mine.Critic", "fp32"),
    ],
)
def test_the_table_behind_auto_on_cuda(
    capability: tuple[int, int], critic: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    networks = {"generator": "wgan_cli.models.mlp.Generator", "critic": critic}
    model = {name: {"_target_": target} for name, target in networks.items()}
    config = dataclasses.replace(SETTINGS, device="auto", model=model)
    chosen = choose_machine(config, find_device("auto"))
    assert chosen == Machine("cuda", threads=1, precision=precision, compile=False)


@pytest.mark.parametrize("graphs", ["true", "null"])
def test_a_run_begun_without_graphs_may_go_on_with_them(graphs: str, here: Path) -> None:
    """On a CPU they have no effect; a run begun there may go on on a GPU."""
    words = [*TINY, "metrics=[]", "hydra.run.dir=first"]
    assert run([*words, "graphs=false"]) == 0
    assert run(["resume=first", f"graphs={graphs}", "steps=3"]) == 0
    status = status_of(here / "first")
    assert (status["state"], status["step"]) == ("finished", 3)


def test_nothing_of_torch_is_changed_by_choosing(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    chosen = choose_machine(
        dataclasses.replace(SETTINGS, precision="fp32", threads=threads + 1), CPU
    )
    assert (chosen.threads, torch.get_num_threads()) == (threads + 1, threads)


@pytest.mark.exhaustive
def test_a_sweeps_job_goes_on_with_the_threads_it_began_with(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where joblib, or another machine, would give it another number."""
    before = torch.get_num_threads()
    words = [word for word in TINY if not word.startswith(("steps", "threads"))]
    words += ["dataset=gaussians_ring", "metrics=[]", "hydra.sweep.dir=sweep", "checkpoint_every=1"]
    sweep = ["-m", *words, "steps=3", "seed=0"]
    try:
        monkeypatch.setattr("wgan_cli.machine.most_threads", lambda: 2)
        monkeypatch.setattr("wgan_cli.build.work.most_threads", lambda: 2)
        assert run(sweep) == 0
        folder = here / "sweep" / "0"
        (folder / "checkpoints" / "step_00000003.pt").unlink()
        monkeypatch.setattr("wgan_cli.machine.most_threads", lambda: 1)
        monkeypatch.setattr("wgan_cli.build.work.most_threads", lambda: 1)
        assert run(sweep) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    status = yaml.safe_load((folder / "status.json").read_text())
    assert (status["state"], status["step"]) == ("finished", 3)
    assert yaml.safe_load((folder / "config.yaml").read_text())["threads"] == 2


@pytest.mark.exhaustive
def test_a_sweeps_job_goes_on_in_the_precision_it_began_in(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [word for word in TINY if not word.startswith("steps")]
    words += ["dataset=gaussians_ring", "metrics=[]", "hydra.sweep.dir=sweep", "checkpoint_every=1"]
    sweep = ["-m", *words, "steps=3", "seed=0"]
    monkeypatch.setattr("wgan_cli.machine.multiplies_bfloat16", lambda _: False)
    assert run(sweep) == 0
    folder = here / "sweep" / "0"
    (folder / "checkpoints" / "step_00000003.pt").unlink()
    (folder / "status.json").unlink()
    monkeypatch.setattr("wgan_cli.machine.multiplies_bfloat16", lambda _: True)
    assert run(sweep) == 0
    status = yaml.safe_load((folder / "status.json").read_text())
    assert (status["state"], status["step"]) == ("finished", 3)
    assert yaml.safe_load((folder / "config.yaml").read_text())["precision"] == "fp32"


def test_a_network_that_goes_by_autocast_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "steps=1", "precision=bf16"]
    assert run([*words, "hydra.run.dir=plain"]) == 0
    assert "autocast" not in capsys.readouterr().err
    assert run([*words, "hydra.run.dir=spectral", "constraint=spectral_norm", "clip=null"]) == 0
    assert capsys.readouterr().err.count("The critic runs under autocast") == 1
