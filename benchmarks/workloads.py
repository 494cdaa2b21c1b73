"""The workloads of `benchmarks.throughput`: their overrides, and both loops built from them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from torchvision import datasets

from benchmarks import sample_images
from benchmarks.textbook import PilImages, Textbook, endless, image_folder, loader, to_floats
from wgan_cli.build import (
    build_constraint,
    build_critic,
    build_dataset,
    build_generator,
    build_trainer,
    complete,
)
from wgan_cli.commands.composition import Composer, quoted, without_hydra
from wgan_cli.config import fill, validate
from wgan_cli.data.dataset import Dataset
from wgan_cli.machine import choose_machine, find_device, set_up_torch
from wgan_cli.schema import FilledConfig, RunConfig
from wgan_cli.training.trainer import Trainer


@dataclass(frozen=True)
class Workload:
    """The overrides for wgan-train, the source of its data, and the target speed-up of the tool.

    `targets` are by device type. `paper` are the settings under which both loops are compared.
    """

    words: tuple[str, ...] = ()
    data: str | None = None
    targets: dict[str, float] = field(default_factory=dict)
    paper: tuple[str, ...] = ("optimizer=rmsprop", "optimizer.lr=5e-5", "clip=0.01")


_PENALTY = ("constraint=gradient_penalty", "optimizer=adam")
WORKLOADS = {
    "mlp": Workload(("model=mlp", "n_critic=5"), "mnist", {"cpu": 3.0, "cuda": 10.0}),
    "dcgan32": Workload(("model=dcgan", "n_critic=5"), "array", {"cpu": 3.0, "cuda": 8.0}),
    "dcgan64": Workload(("model=dcgan", "n_critic=5"), "images", {"cpu": 2.5, "cuda": 5.0}),
    "resnet": Workload(
        ("model=resnet", *_PENALTY, "n_critic=5"),
        "array",
        {"cpu": 1.5, "cuda": 3.0},
        ("optimizer.lr=1e-4", "optimizer.betas=[0.0,0.9]", "constraint.weight=10"),
    ),
    "digits": Workload(targets={"cpu": 4.0}),
}


def words_of(workload: Workload, root: Path, images: Path | None) -> list[str]:
    """Return all overrides, including the path of the data, which are created if missing."""
    where: list[str] = []
    if workload.data == "mnist":
        where = ["dataset=mnist", _place("root", root)]
    elif workload.data is not None:
        folder = sample_images.smooth_images() if images is None else sample_images.chosen(images)
        if workload.data == "images":
            where = ["dataset=image_folder", _place("root", folder), "dataset.size=64"]
        else:
            where = ["dataset=array", _place("path", sample_images.as_array(folder, 32))]
    return [*where, *workload.words]


def filled(words: Sequence[str]) -> FilledConfig:
    """The config of `wgan-train WORDS`, without the machine's settings. Raises `ConfigError`.

    The config has no metrics: evaluations are not timed, and some would train a classifier first.
    """
    config, _ = fill(validate(without_hydra(Composer().compose([*words, "metrics=[]"]))))
    return config


def composed(words: Sequence[str]) -> tuple[FilledConfig, torch.device]:
    """The config and device of `wgan-train WORDS`, torch set up for it. Raises `ConfigError`."""
    config = filled(words)
    device = find_device(config.device)
    machine = choose_machine(config, device)
    set_up_torch(machine, device, deterministic=config.deterministic)
    return dataclasses.replace(config, **dataclasses.asdict(machine)), device


def completed(config: FilledConfig, dataset: Dataset, device: torch.device) -> RunConfig:
    """Every setting of a run of `composed`'s config on these data."""
    return complete(config, choose_machine(config, device), dataset)


@dataclass
class Tool:
    """The trainer of `wgan-train WORDS`; reading its data took `loading` seconds."""

    config: RunConfig
    device: torch.device
    dataset: Dataset
    trainer: Trainer
    loading: float


def tool(words: Sequence[str], dataset: Dataset | None = None) -> Tool:
    """Build the trainer by the command's code, with data that were already read if given."""
    config, device = composed(words)
    start = time.perf_counter()
    data = dataset or build_dataset(config)
    loading = time.perf_counter() - start
    run = completed(config, data, device)
    torch.set_num_threads(run.threads)
    return Tool(run, device, data, build_trainer(run, data, device), loading)


def textbook(
    config: FilledConfig,
    device: torch.device,
    shape: Sequence[int],
    start: Trainer | None = None,
    dtype: torch.dtype = torch.float32,
) -> Textbook:
    """Return the textbook loop with the networks and settings of the config, without batches.

    It starts from the weights of `start`.
    """
    generator = build_generator(config.model, config.latent_dim, shape).to(device, dtype)
    critic = build_critic(config, build_constraint(config), shape).to(device, dtype)
    if start is not None:
        generator.load_state_dict(start.updates.generator.state_dict())
        critic.load_state_dict(start.updates.critic.state_dict())
    return Textbook(
        generator,
        critic,
        _optimizer(config.optimizer, generator),
        _optimizer(config.optimizer, critic),
        iter(()),
        lambda: torch.randn(config.batch_size, config.latent_dim, device=device),
        n_critic=config.n_critic,
        clip=config.clip,
        penalty_weight=config.constraint.get("weight", 0.0),
    )


def textbook_data(config: FilledConfig) -> TorchDataset[Any]:
    """The data as tutorials read them: torchvision's own classes, or images in memory as theirs."""
    dataset = config.dataset
    if dataset["name"] == "mnist":
        return datasets.MNIST(dataset["root"], train=True, transform=to_floats(1))
    if dataset["name"] == "image_folder":
        return image_folder(dataset["root"], dataset["size"])
    if dataset["name"] == "array":
        return PilImages(np.load(dataset["path"], allow_pickle=False))
    grey = build_dataset(config)
    return PilImages(grey.training_sample(torch.arange(grey.training_size or 0))[:, 0].numpy())


@contextmanager
def reading(loop: Textbook, data: TorchDataset[Any], batch: int, workers: int) -> Iterator[None]:
    """Feed the loop from a DataLoader inside the block, and end the loader's processes after.

    So they do not slow down another loop, and cannot prefetch batches while that is timed.
    """
    batches = endless(loader(data, batch, workers))
    loop.batches = batches
    try:
        yield
    finally:
        batches.close()


def _optimizer(settings: Mapping[str, Any], network: torch.nn.Module) -> torch.optim.Optimizer:
    """As people write it."""
    if settings["name"] == "adam":
        return torch.optim.Adam(
            network.parameters(), lr=settings["lr"], betas=tuple(settings["betas"])
        )
    return torch.optim.RMSprop(network.parameters(), lr=settings["lr"])


def _place(key: str, path: Path) -> str:
    return f"dataset.{key}={quoted(str(path.absolute()))}"
