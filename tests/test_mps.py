"""Apple's GPUs: what is refused, and that no float64 gets there. No test here runs on one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import TINY, exhaustive_beyond, metrics_of, status_of
from fake_mps import MPS, FakeMps

from wgan_cli.commands import evaluate, sample
from wgan_cli.commands.train import run
from wgan_cli.distributed.process import Process
from wgan_cli.errors import ConfigError
from wgan_cli.machine import choose_machine, find_device, multiplies_bfloat16
from wgan_cli.randomness import Draws, Stream
from wgan_cli.schema import TrainConfig
from wgan_cli.training.class_sampler import ClassSampler

ON_MPS = [word for word in TINY if not word.startswith("device")] + ["device=mps"]


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> None:
    # Optimizers import it, and it looks at the function that is replaced.
    import torch._dynamo  # noqa: F401

    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)


@pytest.fixture
def mps(available: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMps]:
    make = torch.Tensor._make_subclass
    with FakeMps() as mode:
        # Making a parameter, as copies of networks do, is no operation that a mode sees.
        monkeypatch.setattr(
            torch.Tensor,
            "_make_subclass",
            staticmethod(lambda kind, data, *more: mode.follow(make(kind, data, *more), data)),
        )
        yield mode


def test_it_is_refused_where_there_is_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ON_MPS) == 2
    assert "device=mps: it is not available here" in capsys.readouterr().err
    assert list(here.iterdir()) == []


@pytest.mark.usefixtures("available")
def test_it_is_taken_when_it_is_named_alone() -> None:
    assert find_device("mps").type == "mps"
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="2 processes cannot share it"):
        find_device("mps", Process(0, 2, 0, 2))


def test_it_computes_in_fp32(caplog: pytest.LogCaptureFixture) -> None:
    mlp = {"_target_": "wgan_cli.models.mlp.Generator"}
    model = {"generator": mlp, "critic": {"_target_": "wgan_cli.models.mlp.Critic"}}
    config = TrainConfig(device="mps", precision="auto", compile=True, threads=1, model=model)
    assert not multiplies_bfloat16(MPS)
    with caplog.at_level("INFO", logger="wgan_cli"):
        machine = choose_machine(config, MPS)
    assert (machine.device, machine.precision, machine.compile) == ("mps", "fp32", False)
    assert any("compile=true" in message for message in caplog.messages)
    with pytest.raises(ConfigError, match="this run keeps its bf16"):
        choose_machine(config, MPS, {"precision": "bf16"})
    with pytest.raises(ConfigError, match="fp32 only: type precision=fp32"):
        choose_machine(dataclasses.replace(config, precision="bf16"), MPS)


def test_the_pretended_device_refuses_float64_and_mixtures(mps: FakeMps) -> None:
    here = torch.ones(2)
    there = here.to("mps")
    assert (here.device.type, there.device.type, there.cpu().device.type) == ("cpu", "mps", "cpu")
    assert there.cpu().double().sum() == 2
    refused = [
        there.double,
        there.numpy,
        lambda: torch.zeros((), dtype=torch.float64, device=there.device),
        lambda: here.double().to("mps"),
        lambda: here + there,
    ]
    for work in refused:
        with pytest.raises(TypeError):
            work()


def test_random_numbers_are_those_of_the_cpu(mps: FakeMps) -> None:
    draws = Draws(0, Stream.GENERATOR_NOISE)
    drawn = draws.normal((5,), MPS)
    assert drawn.device == MPS
    assert torch.equal(drawn.cpu(), draws.normal((5,), torch.device("cpu")))
    labels = torch.tensor([0, 0, 1])
    there, here = (ClassSampler(labels, 2, device) for device in (MPS, torch.device("cpu")))
    assert there.draw(50, draws).device == MPS
    assert there.draw(50, draws).tolist() == here.draw(50, draws).tolist()


CASES = {
    "points": ["dataset=gaussians_ring", "constraint=gradient_penalty", "optimizer=adam"],
    "images": ["model=dcgan", "conditional=true", "constraint=spectral_norm", "ema=0.9"],
    "penalty": ["model=dcgan", "constraint=gradient_penalty", "optimizer=adam"],
    "lipschitz": ["model=lipschitz_mlp", "constraint=none", "optimizer=adam"],
    "orthogonal": ["constraint=orthogonal", "loss=hinge", "optimizer=sgd"],
}


@pytest.mark.usefixtures("quick_classifier")
@pytest.mark.parametrize("case", exhaustive_beyond(["points", "images"], CASES))
def test_no_float64_gets_to_the_device(case: str, here: Path, mps: FakeMps) -> None:
    words = [*ON_MPS, *CASES[case], "precision=fp32"]
    assert run([*words, "hydra.run.dir=run", "grad_clip.critic=1"]) == 0
    assert mps.operations > 500
    assert run(["resume=run", "steps=4"]) == 0
    assert status_of(here / "run")["step"] == 4
    assert evaluate.run(["run", "--device", "mps", "--n", "50", "--n-features", "50"]) == 0
    assert sample.run(["run", "--n", "3", "--out", "samples.npy"]) == 0
    # The pretended device computes as the CPU does.
    others = [word for word in words if word != "device=mps"]
    assert run([*others, "device=cpu", "steps=4", "grad_clip.critic=1", "hydra.run.dir=cpu"]) == 0
    there, here_ = (metrics_of(here / name)[-1] for name in ("run", "cpu"))
    compared = {tag for tag in here_ if not tag.startswith("throughput")}
    assert len(compared) > 10
    for tag in compared:
        assert there[tag] == pytest.approx(here_[tag], rel=1e-3, abs=1e-5), tag
