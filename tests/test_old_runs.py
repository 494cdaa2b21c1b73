"""Runs that an earlier version trained: sampled from, evaluated, gone on with and repeated."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY
from PIL import Image
from torch import Tensor

from wgan_cli.commands import evaluate, sample
from wgan_cli.commands.resuming import refuse_changes
from wgan_cli.commands.train import run
from wgan_cli.errors import ConfigError
from wgan_cli.migration import migrated
from wgan_cli.training.checkpoint import load_checkpoint, save_checkpoint

WORDS = [
    *TINY,
    "dataset=cifar10",
    "model=dcgan",
    "ema=0.5",
    "eval_samples=8",
    "metrics=[wasserstein/exact]",
]
DCGAN = "wgan_cli.models.dcgan"


class SmallCifar:
    def __init__(self, root: str, train: bool, download: bool) -> None:
        rng = np.random.default_rng(int(train))
        self.data = rng.integers(0, 256, (96 if train else 48, 8, 8, 3), dtype=np.uint8)
        self.targets = [n % 10 for n in range(len(self.data))]


def as_saved_before(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what came later, and `batch_norm` where there is `norm`."""
    old = copy.deepcopy(config)
    for network in ("generator", "critic"):
        node = old["model"][network]
        node["batch_norm"] = {"batch": True, "none": False}[node.pop("norm")]
    del old["conditional"], old["grad_clip"], old["dataset"]["flip"]
    del old["graphs"], old["profile"]
    old["dataset"]["_target_"] = "wgan_cli.data.images.torchvision_images"
    return old


@pytest.fixture
def old(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two steps as the version before `norm` left it."""
    monkeypatch.setattr("torchvision.datasets.CIFAR10", SmallCifar)
    folder = here / "old"
    assert run([*WORDS, f"hydra.run.dir={folder}"]) == 0
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(as_saved_before(yaml.safe_load(config.read_text()))))
    (path,) = (folder / "checkpoints").iterdir()
    state = load_checkpoint(path)
    del state["classes"]
    save_checkpoint(path, {**state, "config": as_saved_before(state["config"])})
    raw = torch.load(path, weights_only=True)["config"]["model"]
    assert (raw["generator"]["batch_norm"], raw["critic"]["batch_norm"]) == (True, False)
    return folder


def tensors_of(folder: Path) -> dict[str, Tensor]:
    state = torch.load(folder / "checkpoints" / "step_00000004.pt", weights_only=True)
    named = {
        f"{network}.{name}": value
        for network in ("generator", "generator_ema", "critic")
        for name, value in state[network].items()
    }
    for network in ("generator", "critic"):
        for index, kept in state[f"{network}_optimizer"]["state"].items():
            named.update({f"{network}.{index}.{key}": value for key, value in kept.items()})
    assert any("running_mean" in name for name in named)
    return named


def assert_same_tensors(one: Path, other: Path) -> None:
    first, second = tensors_of(one), tensors_of(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_an_old_run_goes_on_as_if_it_had_not_stopped(old: Path, here: Path):
    assert run([*WORDS, "steps=4", "hydra.run.dir=whole"]) == 0
    assert run([f"resume={old}", "steps=4"]) == 0
    assert_same_tensors(old, here / "whole")
    model = yaml.safe_load((old / "config.yaml").read_text())["model"]
    assert (model["generator"]["norm"], model["critic"]["norm"]) == ("batch", "none")


def test_an_old_runs_config_repeats_it(old: Path, here: Path):
    assert run([*WORDS, "steps=4", "hydra.run.dir=whole"]) == 0
    saved = ["--config-dir", "old", "--config-name", "config"]
    assert run([*saved, "steps=4", "hydra.run.dir=again"]) == 0
    assert_same_tensors(here / "again", here / "whole")
    assert run([*saved, "grad_clip.critic=1", "conditional=true", "hydra.run.dir=other"]) == 0
    config = yaml.safe_load((here / "other" / "config.yaml").read_text())
    assert config["grad_clip"] == {"critic": 1.0, "generator": None}
    assert config["conditional"] is True


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("conditional=true", "conditional absent → True"),
        ("grad_clip.critic=1", "grad_clip.critic absent → 1.0"),
        ("model.critic.norm=batch", "model.critic.norm none → batch"),
    ],
)
def test_an_old_run_goes_on_with_its_own_settings_only(
    word: str, said: str, old: Path, capsys: pytest.CaptureFixture[str]
):
    assert run([f"resume={old}", "steps=4", word]) == 2
    assert said in capsys.readouterr().err


def test_an_old_run_is_sampled_from_and_evaluated(old: Path, here: Path):
    assert sample.run([str(old), "--n", "8", "--out", "samples.png"]) == 0
    assert np.asarray(Image.open(here / "samples.png")).std() > 0
    assert evaluate.run([str(old), "--metrics", "exact,lipschitz", "--n", "8"]) == 0
    measured = (old / "evaluation.json").read_text()
    assert "critic/lipschitz" in measured
    assert evaluate.run([str(old), "--all-checkpoints", "--metrics", "exact", "--n", "8"]) == 0


def test_only_dcgans_own_batch_norm_is_renamed():
    def config(target: str, **settings: Any) -> dict[str, Any]:
        return {"seed": 1, "model": {"name": "m", "critic": {"_target_": target, **settings}}}

    before = config(f"{DCGAN}.Critic", width=8, batch_norm=True)
    kept = copy.deepcopy(before)
    assert migrated(before) == config(f"{DCGAN}.Critic", width=8, norm="batch")
    assert before == kept
    for untouched in (
        config("own.dcgan.Critic", batch_norm=True),
        config(f"{DCGAN}.Critic", norm="layer"),
        # What no version saved, which the types' check is to refuse.
        config(f"{DCGAN}.Critic", batch_norm="yes"),
        {"model": None},
        {"model": {"name": "m", "critic": [1]}},
        {},
    ):
        assert migrated(untouched) == untouched


@pytest.mark.parametrize("value", [None, False])
def test_a_setting_that_came_later_may_be_off(value: Any, tmp_path: Path):
    refuse_changes({"seed": 1}, {"seed": 1, "later": {"setting": value}}, tmp_path)


@pytest.mark.parametrize("value", [0, 0.0, True, 0.5, "linear"])
def test_a_setting_that_came_later_may_be_nothing_else(value: Any, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"later\.setting absent → "):
        refuse_changes({"seed": 1}, {"seed": 1, "later": {"setting": value}}, tmp_path)
