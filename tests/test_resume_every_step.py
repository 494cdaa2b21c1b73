"""A run that is cut off at any of its steps ends as if it had never been."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    TINY,
    assert_same_curves,
    assert_same_state,
    checkpoints_of,
    composed,
    curves_of,
    exhaustive_beyond,
    fast_curves_of,
    metrics_of,
    status_of,
    trained,
)
from PIL import Image

from wgan_cli.training.checkpoint import step_of

STEPS = 3
WORDS = [
    *(word for word in TINY if not word.startswith("steps")),
    f"steps={STEPS}",
    "decay.kind=linear",
    "ema=0.5",
    "metrics=[wasserstein/exact]",
    "eval_samples=12",
    "log_every=1",
    "sample_every=2",
    "eval_every=3",
    "checkpoint_every=1",
    "keep_every=1",
]
# Two critic updates of 500 a step: an epoch is 1,438 digits and never ends with a step.
DIGITS = [*WORDS, "batch_size=500"]
# 48 images a step of 64 in all, and cuts amid what a log point averages.
IMAGES = [*WORDS, "dataset=image_folder", "dataset.size=8", "dataset.flip=true", "batch_size=24"]
IMAGES += ["log_every=2"]
LOSSES = [("wasserstein", "bf16"), ("hinge", "bf16"), ("gan", "bf16"), ("wasserstein", "fp32")]
CONSTRAINTS = ["clip", "gradient_penalty", "spectral_norm", "orthogonal", "none"]
MATRIX = [(*loss, constraint) for loss in LOSSES for constraint in CONSTRAINTS]
# Every constraint, and every loss.
USUAL = [
    ("wasserstein", "bf16", "clip"),
    ("hinge", "bf16", "gradient_penalty"),
]


def cut_off_after(step: int, whole: Path, copy: Path) -> Path:
    """A run as a kill between a checkpoint and the next would have left it, at the worst time.

    All that came after `step` was written, but for checkpoints.
    """
    shutil.copytree(whole, copy)
    for path in checkpoints_of(copy):
        if step_of(path) > step:
            path.unlink()
    (copy / "status.json").write_text(json.dumps({**status_of(copy), "state": "running"}))
    return copy


def assert_every_cut_is_mended(words: list[str], here: Path) -> None:
    config, whole = composed(words), here / "whole"
    assert trained(config, whole) == 0
    assert [step_of(path) for path in checkpoints_of(whole)] == list(range(1, STEPS + 1))
    for step in range(STEPS + 1):
        copy = cut_off_after(step, whole, here / f"cut_{step}")
        assert trained(config, copy, resume="auto") == 0
        assert status_of(copy)["state"] == "finished"
        assert_same_state(whole, copy)
        assert_same_curves(whole, copy)


@pytest.mark.parametrize(("loss", "precision", "constraint"), exhaustive_beyond(USUAL, MATRIX))
def test_a_cut_at_any_step_leaves_no_trace(loss: str, precision: str, constraint: str, here: Path):
    words = [f"loss={loss}", f"constraint={constraint}", f"precision={precision}"]
    assert_every_cut_is_mended([*DIGITS, *words], here)


@pytest.fixture
def images(here: Path) -> Path:
    """64 training images and 24 held-out ones."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 64), ("val", 24)):
        (here / "data" / "images" / part).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(here / "data" / "images" / part / f"{number:02d}.png")
    return here


@pytest.mark.parametrize(
    "workers",
    exhaustive_beyond([2], [None, 0, 2]),
    ids=lambda n: "in memory" if n is None else n,
)
def test_images_come_in_the_same_order_after_a_cut(workers: int | None, images: Path):
    way = [f"dataset.in_memory={str(workers is None).lower()}", f"dataset.workers={workers or 0}"]
    assert_every_cut_is_mended([*IMAGES, *way], images)


def test_the_fast_loader_shows_each_step_once_too(here: Path):
    config, whole = composed(DIGITS), here / "whole"
    assert trained(config, whole) == 0
    copy = cut_off_after(1, whole, here / "copy")
    assert trained(config, copy, resume="auto") == 0
    assert len(list((copy / "tensorboard").iterdir())) == 2
    curves = fast_curves_of(copy, STEPS)
    if curves is not None:
        wanted = {
            tag: [[line["step"], pytest.approx(line[tag], rel=1e-6)] for line in lines]
            for tag in curves_of(copy)
            if (lines := [line for line in metrics_of(copy) if tag in line])
        }
        assert curves == wanted
        assert len(curves["critic/wasserstein"]) == STEPS
