"""The pictures of a run in TensorBoard: which samples of which generator they show."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.tensorboard.summary import image

from wgan_cli.build import build_dataset, build_generator
from wgan_cli.commands.train import run
from wgan_cli.config import validate
from wgan_cli.data.feeds import to_bytes
from wgan_cli.evaluation.sampling import generate
from wgan_cli.loggers import Measurements, RunInfo
from wgan_cli.loggers.tensorboard import TensorBoard
from wgan_cli.pictures import grid, scatter
from wgan_cli.randomness import Draws, Stream

pytestmark = pytest.mark.charts

WORDS = [*TINY, "eval_samples=8", "metrics=[wasserstein/exact]", "hydra.run.dir=out"]
# An average that is far behind after two steps.
AVERAGED = [*WORDS, "ema=0.9", "optimizer=sgd", "optimizer.lr=1", "clip=1"]


def pictures_of(folder: Path, tag: str) -> list[np.ndarray]:
    events = EventAccumulator(str(folder / "tensorboard"), {"images": 0}).Reload()
    return [
        np.asarray(Image.open(BytesIO(event.encoded_image_string))) for event in events.Images(tag)
    ]


def state_of(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "step_00000002.pt", weights_only=True)


def drawn(state: dict[str, Any], network: str, count: int) -> Tensor:
    """Samples of a checkpoint's generator, or of its average, from the pictures' noise."""
    config = state["config"]
    latent_dim = config["latent_dim"]
    generator = build_generator(config["model"], latent_dim, state["sample_shape"])
    generator.load_state_dict(state[network])
    noise = Draws(config["seed"], Stream.SAMPLES).normal((count, latent_dim), torch.device("cpu"))
    return generate(generator, noise)


def test_the_raw_generators_images_stand_beside_the_averages(here: Path):
    assert run(AVERAGED) == 0
    state = state_of(here / "out")
    raw, averaged = (
        grid(to_bytes(drawn(state, network, 64))) for network in ("generator", "generator_ema")
    )
    assert not np.array_equal(raw, averaged)
    assert np.array_equal(pictures_of(here / "out", "samples/fake_raw")[-1], raw)
    assert np.array_equal(pictures_of(here / "out", "samples/fake")[-1], averaged)


def test_the_raw_generators_points_stand_beside_the_averages(here: Path):
    assert run([*AVERAGED, "dataset=gaussians_ring"]) == 0
    state = state_of(here / "out")
    real = build_dataset(validate(state["config"])).held_out[:1024].numpy()
    raw, averaged = (
        scatter(real, drawn(state, network, 1024).numpy())
        for network in ("generator", "generator_ema")
    )
    assert not np.array_equal(raw, averaged)
    assert np.array_equal(pictures_of(here / "out", "samples/scatter_raw")[-1], raw)
    assert np.array_equal(pictures_of(here / "out", "samples/scatter")[-1], averaged)


def test_the_real_images_of_a_conditional_run_have_a_row_a_class(here: Path):
    """Images of one brightness a class, the classes in mixed order; class 2 fills no row."""
    arrays = {}
    mixed = np.random.default_rng(0).permutation([0] * 20 + [1] * 20 + [2] * 3)
    for part, labels in (("train", np.arange(48) % 3), ("test", mixed)):
        bright = (60 * labels).astype(np.uint8)
        arrays |= {f"x_{part}": np.tile(bright[:, None, None], (8, 8)), f"y_{part}": labels}
    np.savez(here / "classes.npz", **arrays)
    words = ["dataset=array", "dataset.path=classes.npz", "conditional=true"]
    assert run([*WORDS, *words]) == 0
    (shown,) = pictures_of(here / "out", "samples/real")
    rows = [[0] * 8, [60] * 8, [120] * 3 + [255] * 5]
    expected = torch.tensor(rows, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    assert np.array_equal(shown, grid(expected))


def test_a_picture_is_in_the_event_file_as_torch_puts_it_there(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    logger = TensorBoard()
    logger.start(RunInfo(tmp_path, {}, step=0, first=True))
    logger.log(Measurements(7, pictures={"samples/fake": picture}))
    logger.close()
    (shown,) = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Images("samples/fake")
    expected = image("samples/fake", picture, dataformats="HWC").value[0].image
    assert shown.step == 7
    assert (shown.width, shown.height) == (expected.width, expected.height)
    assert shown.encoded_image_string == expected.encoded_image_string
