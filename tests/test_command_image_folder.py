"""Runs on a folder of images: the same however they are read, stopped and gone on with."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, status_of
from PIL import Image

from benchmarks.forked_commands import CommandServer, Start
from wgan_cli.commands.train import run

IMAGES = ["dataset=image_folder", "dataset.size=8", "dataset.flip=true", "eval_samples=8"]
# 12 critic updates of 16 in all: one and a half epochs are read by the time of the resume.
SMALL = [*IMAGES, *TINY, "steps=6", "decay.kind=none", "dataset.corrupt_limit=0.1"]
KINDS = {
    "kept": ["dataset.in_memory=true"],
    "streamed": ["dataset.in_memory=false", "dataset.workers=0"],
    "by_two": ["dataset.in_memory=false", "dataset.workers=2"],
}


@pytest.fixture
def folder(here: Path) -> Path:
    """64 training images and 24 held-out ones; one is damaged."""
    rng = np.random.default_rng(0)
    root = here / "data" / "images"
    for part, count in (("train", 64), ("val", 24)):
        (root / part).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / part / f"{number:02d}.png")
    (root / "train" / "33.png").write_bytes(b"")
    return here


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run_folder / "checkpoints" / "step_00000006.pt", weights_only=True)
    return {**state["generator"], **{f"critic.{k}": v for k, v in state["critic"].items()}}


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.exhaustive
def test_a_run_is_the_same_in_memory_streamed_and_resumed(folder: Path):
    for name, words in KINDS.items():
        assert run([*SMALL, *words, f"hydra.run.dir={name}"]) == 0
        half = [*SMALL, *words, "steps=3", f"hydra.run.dir=half_{name}"]
        assert run(half) == 0
        assert run([f"resume=half_{name}", "steps=6"]) == 0
        assert_same_weights(folder / name, folder / "kept")
        assert_same_weights(folder / f"half_{name}", folder / "kept")
    assert run([*SMALL, *KINDS["kept"], "dataset.flip=false", "hydra.run.dir=plain"]) == 0
    with pytest.raises(AssertionError):
        assert_same_weights(folder / "plain", folder / "kept")


def test_a_run_goes_on_with_another_way_of_reading(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert run([*SMALL, *KINDS["kept"], "hydra.run.dir=kept"]) == 0
    assert run([*SMALL, *KINDS["kept"], "steps=3", "hydra.run.dir=half"]) == 0
    assert run(["resume=half", "steps=6", "dataset.flip=false"]) == 2
    assert "dataset.flip" in capsys.readouterr().err
    assert run(["resume=half", "steps=6", *KINDS["by_two"]]) == 0
    assert_same_weights(folder / "half", folder / "kept")


def test_a_folder_that_has_changed_is_not_gone_on_with(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert run([*SMALL, *KINDS["kept"], "steps=2", "hydra.run.dir=half"]) == 0
    added = folder / "data" / "images" / "train" / "new.png"
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(added)
    assert run(["resume=half", "steps=6"]) == 3
    assert "from 64 + 24 samples to 65 + 24 samples" in capsys.readouterr().err
    added.unlink()
    assert run(["resume=half", "steps=3", "dataset.corrupt_limit=0.5"]) == 0


def test_the_damaged_image_is_named_in_the_runs_log(folder: Path):
    assert run([*SMALL, *KINDS["by_two"], "hydra.run.dir=out"]) == 0
    said = (folder / "out" / "train.log").read_text()
    assert said.count("33.png cannot be read (not an image)") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_damaged_images_are_an_error_of_the_data(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert run([*SMALL, *KINDS[kind], "dataset.corrupt_limit=0", "hydra.run.dir=out"]) == 3
    assert "more than 0 of 88 images cannot be read" in capsys.readouterr().err


def test_the_readers_of_a_run_that_diverges_end_with_it(folder: Path):
    wild = ["constraint=none", "optimizer=sgd", "optimizer.lr=1e6", "log_every=1"]
    words = [*SMALL, *KINDS["by_two"], *wild, "steps=20", "hydra.run.dir=out"]
    # What holds the failed run until cycles are collected must not hold its processes.
    gc.disable()
    try:
        assert run(words) == 5
        assert multiprocessing.active_children() == []
    finally:
        gc.enable()


def test_a_missing_folder_is_an_error_of_the_data(here: Path, capsys: pytest.CaptureFixture[str]):
    assert run([*SMALL, "dataset.root=nowhere"]) == 3
    said = capsys.readouterr().err
    assert str(here / "nowhere") in said
    assert "dataset.root=FOLDER" in said
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code", "state"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 75, "preempted")],
)
def test_a_signal_to_all_processes_is_answered_by_the_run_alone(
    number: int, code: int, state: str, command_server: CommandServer, folder: Path
):
    words = [*SMALL, *KINDS["by_two"], "steps=1000000", "log_every=1", "hydra.run.dir=out"]
    process = command_server.start("wgan-train", words, folder, start=Start(new_session=True))
    try:
        until = time.monotonic() + 120
        while not ((folder / "out/status.json").exists() and status_of(folder / "out")["step"] > 1):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, said
    assert "wgan-train resume=out" in said
    assert "Traceback" not in said
    assert status_of(folder / "out")["state"] == state
    # Nobody of the group is left.
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
