from __future__ import annotations

import functools
import gzip
import itertools
import math
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import formats
import numpy as np
import pytest
import torch
import yaml
from conftest import COMPANIONS, TINY, composed, exhaustive_beyond, metrics_of, status_of
from torchvision.datasets import CIFAR10

from wgan_cli.commands.train import run
from wgan_cli.config import configs_folder

OPTIONS = sorted(
    path.relative_to(configs_folder()).with_suffix("")
    for path in configs_folder().glob("*/*.yaml")
    if path.parent.name != "search"
)
SMALL = [*TINY, "log_every=1", "eval_samples=8"]
# The options of every run of the tests. Each data set has tests of its own, and an experiment names
# options of the other groups.
USUAL = [path for path in OPTIONS if path.parent.name not in ("dataset", "experiment")]
NORMS = ["batch", "none", "layer", "group"]
MODELS = [p.name for p in OPTIONS if p.parent.name == "model" and p.name != "parallel_lines"]


OWN_MODULE = """
import math

import torch
from torch import nn


class Generator(nn.Module):
    def __init__(self, latent_dim, sample_shape, gain):
        super().__init__()
        self.shape, self.gain = tuple(sample_shape), gain
        self.linear = nn.Linear(latent_dim, math.prod(sample_shape))

    def forward(self, latent):
        return torch.tanh(self.gain * self.linear(latent)).unflatten(1, self.shape)


class Critic(nn.Module):
    def __init__(self, sample_shape):
        super().__init__()
        size = math.prod(sample_shape)
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(size), nn.Linear(size, 1))

    def forward(self, samples):
        return self.layers(samples).squeeze(1)
"""
OWN_MODEL = """# One layer of my own
name: linear
generator:
  _target_: own_networks.Generator
  gain: 2.0
critic:
  _target_: wgan_cli.models.mlp.Critic
  width: 8
  depth: 1
"""
OWN_EXPERIMENT = """# @package _global_
# What chapter three shows
defaults:
  - override /model: linear
  - override /loss: hinge
clip: 0.07
n_critic: 3
"""


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim)
    path.write_bytes(header + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes())
    path.with_suffix(path.suffix + ".gz").write_bytes(gzip.compress(path.read_bytes()))


def write_image_sets(root: Path) -> None:
    """40 + 24 random images in each of torchvision's formats."""
    rng = np.random.default_rng(0)
    for folder in ("MNIST", "FashionMNIST", "KMNIST"):
        raw = root / folder / "raw"
        raw.mkdir(parents=True)
        for part, count in (("train", 40), ("t10k", 24)):
            images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            write_idx(raw / f"{part}-images-idx3-ubyte", images)
            write_idx(raw / f"{part}-labels-idx1-ubyte", np.zeros(count, dtype=np.uint8))
    batches = root / "cifar-10-batches-py"
    batches.mkdir()
    for part, count in (("data_batch_1", 40), ("test_batch", 24)):
        entry = {
            "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
            "labels": [0] * count,
        }
        (batches / part).write_bytes(pickle.dumps(entry))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": ["thing"]}))

    def part(count: int, side: int, *channels: int) -> tuple[np.ndarray, np.ndarray]:
        images = rng.integers(0, 256, (count, *channels, side, side), dtype=np.uint8)
        return images, np.zeros(count, dtype=np.int64)

    formats.write_emnist(root, "balanced", {"train": part(40, 28), "test": part(24, 28)})
    formats.write_cifar100(root, {"train": part(40, 32, 3), "test": part(24, 32, 3)})
    formats.write_svhn(root, {"train": part(40, 32, 3), "test": part(24, 32, 3)})
    unlabelled = part(9, 96, 3)[0], None
    stl10 = {"train": part(40, 96, 3), "test": part(24, 96, 3), "unlabeled": unlabelled}
    formats.write_stl10(root, stl10)
    np.savez(root / "array.npz", x=part(90, 8)[0])
    photographs = rng.integers(0, 256, (64, 40, 30, 3), dtype=np.uint8)
    formats.write_celeba(root, photographs, [0] * 40 + [2] * 24)
    for name, some in (("train", photographs[:40]), ("val", photographs[40:])):
        files = {f"{n:03d}": formats.encoded(pixels) for n, pixels in enumerate(some)}
        formats.write_lsun(root / f"bedroom_{name}_lmdb", files)
        (root / "images" / name).mkdir(parents=True)
        for key, content in files.items():
            (root / "images" / name / f"{key}.webp").write_bytes(content)


@pytest.fixture(scope="module")
def image_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("image_sets") / "data"
    write_image_sets(root)
    return root


@pytest.fixture
def with_images(here: Path, image_sets: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder whose `data` holds small stand-ins for the real files."""
    (here / "data").symlink_to(image_sets)
    # The real archives' checksums; None is not checked.
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})
    formats.accept_any_checksum(monkeypatch)
    monkeypatch.setattr("wgan_cli.data.stacked.TRAINING_SIZE", 40)
    monkeypatch.setattr("wgan_cli.data.stacked.HELD_OUT_SIZE", 24)
    return here


@pytest.fixture
def mine(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own folder with a model and an experiment, and the module that they name."""
    folder = here / "mine"
    for name, text in (("model/linear", OWN_MODEL), ("experiment/thesis", OWN_EXPERIMENT)):
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (here / "modules").mkdir()
    (here / "modules" / "own_networks.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(str(here / "modules"))
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    return folder


def trained(folder: Path, *words: str) -> Path:
    assert run([*words, f"hydra.run.dir={folder}"]) == 0
    return folder


def config_of(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(sorted((folder / "checkpoints").iterdir())[-1], weights_only=True)
    return {
        f"{network}.{name}": value
        for network in ("generator", "critic")
        for name, value in state[network].items()
    }


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


def assert_two_finite_steps(folder: Path) -> None:
    assert status_of(folder)["state"] == "finished"
    lines = metrics_of(folder)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert all(value.isfinite().all() for value in weights_of(folder).values())


def small_for(model: str) -> list[str]:
    """TINY, with the widths that the model option has and what it needs beside it."""
    needed = COMPANIONS.get(f"model/{model}", [])
    taken = {word.partition("=")[0] for word in needed}
    node = yaml.safe_load((configs_folder() / "model" / f"{model}.yaml").read_text())
    small = [
        word
        for word in SMALL
        if not word.startswith("model.")
        or word.partition("=")[0].split(".")[2] in node[word.split(".")[1]]
    ]
    return [*needed, *(word for word in small if word.partition("=")[0] not in taken)]


def without_dataset(words: list[str]) -> list[str]:
    return [word for word in words if not word.startswith("dataset=")]


def model_of(option: Path) -> str:
    """The model that an option brings."""
    if option.parent.name == "model":
        return option.name
    text = (configs_folder() / option).with_suffix(".yaml").read_text()
    for choice in (yaml.safe_load(text) or {}).get("defaults", []):
        if "override /model" in choice:
            return str(choice["override /model"])
    return "mlp"


@functools.cache
def defaults() -> Any:
    return composed([])


def test_there_is_something_to_compose() -> None:
    assert {path.parent.name for path in OPTIONS} == {
        *("dataset", "model", "loss", "constraint", "optimizer", "logger", "experiment", "debug")
    }


@pytest.mark.parametrize("option", exhaustive_beyond(USUAL, OPTIONS), ids=str)
def test_every_shipped_option_trains_two_steps(option: Path, with_images: Path) -> None:
    group, name = option.parent.name, option.name
    words = [f"{group}={name}", *small_for(model_of(option))]
    assert_two_finite_steps(trained(with_images / "out", *words))


@pytest.mark.parametrize(
    ("dataset", "model"),
    exhaustive_beyond(
        [("mnist", "dcgan"), ("cifar10", "resnet")], itertools.product(["mnist", "cifar10"], MODELS)
    ),
)
def test_every_model_trains_on_grey_and_on_colour_images(
    dataset: str, model: str, with_images: Path
) -> None:
    words = [f"model={model}", f"dataset={dataset}", *without_dataset(small_for(model))]
    assert_two_finite_steps(trained(with_images / "out", *words))


@pytest.mark.parametrize(
    ("model", "in_generator", "in_critic"),
    exhaustive_beyond(
        [("dcgan", "batch", "none"), ("dcgan", "none", "batch"), ("resnet", "layer", "group")],
        [
            (model, *norms)
            for model in ("dcgan", "resnet")
            for norms in (
                ("batch", "none"),
                ("none", "batch"),
                ("layer", "group"),
                ("group", "layer"),
            )
        ],
    ),
)
def test_images_train_with_every_norm_in_either_network(
    model: str, in_generator: str, in_critic: str, with_images: Path
) -> None:
    choice = [f"model.generator.norm={in_generator}", f"model.critic.norm={in_critic}"]
    words = ["dataset=mnist", f"model={model}", *without_dataset(small_for(model)), *choice]
    folder = trained(with_images / "out", *words)
    assert_two_finite_steps(folder)
    names = list(weights_of(folder))
    for network, chosen in (("generator", in_generator), ("critic", in_critic)):
        has_statistics = any(n.startswith(network) and "running_mean" in n for n in names)
        assert has_statistics == (chosen == "batch")


def test_clipped_batch_norm_in_the_critic_is_said_once(
    with_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["dataset=mnist", "model=dcgan", "model.critic.norm=batch", *small_for("dcgan")]
    folder = trained(with_images / "said", *words)
    said = capsys.readouterr().err, (folder / "train.log").read_text()
    assert [text.count("constraint.exempt_normalization=true") for text in said] == [1, 1]
    trained(with_images / "unsaid", *words, "constraint.exempt_normalization=true")
    assert "exempt_normalization" not in capsys.readouterr().err


def test_the_saturating_gan_trains(here: Path) -> None:
    assert_two_finite_steps(trained(here / "out", "loss=gan", "loss.saturating=true", *SMALL))


@pytest.mark.parametrize("kind", exhaustive_beyond(["cosine"], ["none", "linear", "cosine"]))
def test_every_decay_trains(kind: str, here: Path) -> None:
    assert_two_finite_steps(trained(here / "out", f"decay.kind={kind}", "ema=0.9", *SMALL))


def test_each_network_can_have_its_own_rate(here: Path) -> None:
    rates = ["optimizer=adam", "optimizer.lr=1e-3", "optimizer.critic.lr=2e-4", "decay.kind=none"]
    folder = trained(here / "out", *rates, *SMALL)
    state = torch.load(folder / "checkpoints" / "step_00000002.pt", weights_only=True)
    assert state["critic_optimizer"]["param_groups"][0]["lr"] == 2e-4
    assert state["generator_optimizer"]["param_groups"][0]["lr"] == 1e-3


@pytest.mark.parametrize(("held", "free"), [("critic", "generator"), ("generator", "critic")])
def test_each_network_can_have_its_own_longest_gradient(held: str, free: str, here: Path) -> None:
    words = ["optimizer=sgd", "optimizer.lr=0.1", "constraint=none", "checkpoint_every=1"]
    folder = trained(here / "out", *words, f"grad_clip.{held}=1e-12", *SMALL)
    first, second = (
        torch.load(folder / "checkpoints" / f"step_0000000{step}.pt", weights_only=True)
        for step in (1, 2)
    )

    def moved(network: str) -> float:
        before, after = first[network], second[network]
        return max(float((after[name] - before[name]).abs().max()) for name in before)

    # Weights of 0 alone can move by so little.
    assert moved(held) < 1e-10
    assert moved(free) > 1e-5


def test_the_config_is_shown_and_nothing_runs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["loss=hinge", "optimizer=adam", "optimizer.lr=1e-3", "n_critic=3"]
    assert run([*words, "--cfg", "job", "--resolve"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["loss"]["name"] == "hinge"
    assert shown["optimizer"]["name"] == "adam"
    assert float(shown["optimizer"]["lr"]) == 1e-3
    assert shown["n_critic"] == 3
    assert shown["dataset"]["name"] == "digits"
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", [p.name for p in OPTIONS if p.parent.name == "experiment"])
def test_an_experiment_changes_the_config_and_a_typed_word_wins(name: str) -> None:
    changed = composed([f"experiment={name}"])
    assert changed != defaults()
    assert composed([f"experiment={name}", "batch_size=17"]) == {**changed, "batch_size": 17}


def test_the_paper_experiment_is_the_papers(here: Path) -> None:
    config = config_of(trained(here / "out", "experiment=paper", *SMALL))
    assert config["clip"] == 0.01
    assert config["optimizer"]["name"] == "rmsprop"
    assert config["optimizer"]["lr"] == 5e-5
    assert config["decay"]["kind"] == "none"
    assert config["ema"] == 0


@pytest.mark.parametrize("dataset", ["digits", "gaussians_ring"])
def test_the_same_seed_repeats_bit_for_bit_and_another_does_not(dataset: str, here: Path) -> None:
    words = [f"dataset={dataset}", *SMALL]
    first = trained(here / "first", *words, "seed=5")
    again = trained(here / "again", *words, "seed=5")
    other = trained(here / "other", *words, "seed=6")
    assert same_weights(first, again)
    assert not same_weights(first, other)
    timing = (
        "throughput/images_per_second",
        "throughput/step_ms",
        "throughput/evaluation_seconds",
    )
    for line, repeated in zip(metrics_of(first), metrics_of(again), strict=True):
        for tag in timing:
            line.pop(tag, None), repeated.pop(tag, None)
        assert line == repeated


def test_looking_at_a_run_does_not_change_it(here: Path) -> None:
    seldom = trained(here / "seldom", *SMALL, "log_every=100", "sample_every=100", "steps=4")
    often = trained(
        here / "often", *SMALL, "sample_every=1", "eval_every=1", "checkpoint_every=1", "steps=4"
    )
    assert same_weights(seldom, often)


def test_a_run_is_repeated_from_its_own_config(here: Path) -> None:
    words = ["loss=hinge", "optimizer=adam", "decay.kind=linear", "ema=0.5", "seed=3", *SMALL]
    first = trained(here / "first", *words)
    again = trained(here / "again", "--config-dir", str(first), "--config-name", "config")
    assert same_weights(first, again)
    assert config_of(again) == config_of(first)


def test_a_run_is_repeated_from_a_relative_folder_with_changes(here: Path) -> None:
    first = trained(here / "first", *SMALL)
    saved = ["--config-dir", "first", "--config-name", "config"]
    other = trained(here / "other", *saved, "seed=1", "loss=hinge", "optimizer.lr=1e-3")
    assert not same_weights(first, other)
    config = config_of(other)
    assert (config["seed"], config["loss"]["name"]) == (1, "hinge")
    assert config["optimizer"]["lr"] == 1e-3


def test_a_saved_config_is_checked_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = here / "first" / "config.yaml"
    trained(here / "first", *SMALL)
    good = saved.read_text()
    before = sorted(here.iterdir())
    for change, named in (("n_critic: many", "n_critic"), ("n_critics: 2", "n_critics")):
        saved.write_text(good.replace("n_critic: 2", change, 1))
        capsys.readouterr()
        assert run(["--config-dir", "first", "--config-name", "config"]) == 2
        assert named in capsys.readouterr().err
    assert sorted(here.iterdir()) == before


def test_a_users_own_model_and_experiment(mine: Path, here: Path) -> None:
    common = [word for word in SMALL if not word.startswith("model.")]
    folder = trained(here / "model", "--config-dir", "mine", "model=linear", *common)
    assert_two_finite_steps(folder)
    assert config_of(folder)["model"]["generator"]["gain"] == 2.0
    assert "generator.linear.weight" in weights_of(folder)

    quiet = [word for word in common if not word.startswith("n_critic")]
    folder = trained(here / "thesis", "--config-dir", "mine", "experiment=thesis", *quiet)
    assert_two_finite_steps(folder)
    config = config_of(folder)
    assert config["model"]["name"] == "linear"
    assert config["loss"]["name"] == "hinge"
    assert (config["clip"], config["n_critic"]) == (0.07, 3)


def test_a_users_own_setting_is_overridden_like_any_other(mine: Path, here: Path) -> None:
    common = [word for word in SMALL if not word.startswith("model.")]
    words = ["--config-dir", "mine", "model=linear", "model.generator.gain=0.5", *common]
    assert config_of(trained(here / "out", *words))["model"]["generator"]["gain"] == 0.5


def test_a_users_own_critic_must_fit_the_constraint_too(
    mine: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    critic = "critic:\n  _target_: own_networks.Critic\n"
    text = OWN_MODEL.partition("critic:")[0] + critic
    (mine / "model" / "normalised.yaml").write_text(text)
    common = [word for word in SMALL if not word.startswith("model.")]
    words = ["--config-dir", "mine", "model=normalised", *common]
    assert run([*words, "constraint=gradient_penalty", "hydra.run.dir=refused"]) == 2
    assert "under BatchNorm (layers.1)" in capsys.readouterr().err
    assert not (here / "refused").exists()
    assert_two_finite_steps(trained(here / "clipped", *words, "constraint=clip"))


def test_flags_may_stand_among_the_settings(
    here: Path, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["loss=hinge", "--config-dir", "mine", "clip=0.5", "--cfg", "job", "seed=4"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["loss"]["name"], shown["clip"], shown["seed"]) == ("hinge", 0.5, 4)
