"""docs/models.md: its table is that of the models, its example works as it stands."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import status_of
from hydra.utils import get_object

from wgan_cli.commands.sample import run as sample
from wgan_cli.commands.train import run as train
from wgan_cli.config import configs_folder
from wgan_cli.errors import ConfigError

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
MODELS = sorted(path.stem for path in configs_folder().glob("model/*.yaml"))
SHAPES = [(1, 28, 28), (3, 32, 32), (3, 64, 64)]


def block(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return found[0]


def rows() -> dict[str, list[str]]:
    """The first table's cells by model."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[2:] for row in cells if len(row) == 5}


def millions(node: dict[str, Any], **facts: Any) -> str:
    settings = {key: value for key, value in node.items() if key != "_target_"}
    network = get_object(node["_target_"])(**facts, **settings)
    return f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f}"


def test_the_table_names_every_model() -> None:
    assert sorted(rows()) == MODELS


@pytest.mark.parametrize("model", MODELS)
def test_the_table_counts_the_parameters(model: str) -> None:
    node = yaml.safe_load((configs_folder() / "model" / f"{model}.yaml").read_text())
    for said, shape in zip(rows()[model], SHAPES, strict=True):
        try:
            generator = millions(node["generator"], latent_dim=64, sample_shape=shape)
        except ConfigError:
            assert said == "–"
            continue
        assert said == f"{generator} + {millions(node['critic'], sample_shape=shape)}"


def test_the_example_trains_and_samples_with_and_without_classes(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "mine" / "model").mkdir(parents=True)
    (here / "mine" / "my_networks.py").write_text(block("python"))
    (here / "mine" / "model" / "shallow.yaml").write_text(block("yaml"))
    path, *commands = block("sh").splitlines()
    monkeypatch.syspath_prepend(here / path.removeprefix("export PYTHONPATH="))
    for command in commands:
        # Each command is a process of its own.
        sys.modules.pop("my_networks", None)
        name, *words = shlex.split(command)
        assert {"wgan-train": train, "wgan-sample": sample}[name](words) == 0
    for run, classes in (("shallow", False), ("classes", True)):
        folder = here / "outputs" / run
        assert status_of(folder)["state"] == "finished"
        state = torch.load(folder / "checkpoints" / "step_00000100.pt", weights_only=True)
        for network in ("generator", "critic"):
            assert ("of_class.weight" in state[network]) == classes
    for picture in ("shallow.png", "threes.png"):
        assert (here / picture).stat().st_size > 0
