from __future__ import annotations

import io
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Command
from PIL import Image

from wgan_cli.commands.checkpoints import trusted_generator
from wgan_cli.commands.sample import run as sample
from wgan_cli.commands.train import run as train
from wgan_cli.data.feeds import to_bytes
from wgan_cli.evaluation.sampling import generate
from wgan_cli.pictures import as_png, points
from wgan_cli.randomness import Draws, Stream
from wgan_cli.training.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.charts
CPU = torch.device("cpu")

OWN_MODULE = """
import math

from torch import nn


class Generator(nn.Module):
    def __init__(self, latent_dim, sample_shape):
        super().__init__()
        self.shape = tuple(sample_shape)
        self.linear = nn.Linear(latent_dim, math.prod(sample_shape))

    def forward(self, latent):
        return self.linear(latent).tanh().unflatten(1, self.shape)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Finished runs, made once: `plain`, `averaged`, `points` and `colour`."""
    here = tmp_path_factory.mktemp("runs")

    class Photographs:
        data = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
        targets = np.arange(64)

        def __init__(self, root: str, train: bool, download: bool) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(sys, "argv", ["wgan-train"])
        patch.setattr("torchvision.datasets.CIFAR10", Photographs)
        quick = [*TINY, "eval_samples=8"]
        for name, words in {
            "plain": ["ema=0", "checkpoint_every=1", "clip=0.5", "optimizer.lr=3e-3"],
            "averaged": ["ema=0.9", "clip=0.5", "optimizer.lr=3e-3"],
            "points": ["dataset=gaussians_ring"],
            "colour": ["dataset=cifar10", "model=dcgan", "model.generator.norm=batch"],
        }.items():
            assert train([*quick, *words, f"hydra.run.dir={name}"]) == 0
    yield here


@pytest.fixture
def here(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a copy of the runs."""
    for run in runs.iterdir():
        shutil.copytree(run, tmp_path / run.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(*words: str) -> np.ndarray:
    assert sample([*words, "--out", "drawn.npy"]) == 0
    return np.load("drawn.npy")


def test_without_options_it_draws_a_grid_of_64_into_the_run(
    shell: Command, here: Path, tmp_path: Path
) -> None:
    answer = shell("plain", command="wgan-sample")
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    made = here / "plain" / "samples" / "n64_seed0.png"
    assert "plain/samples/n64_seed0.png" in answer.stdout
    with Image.open(made) as picture:
        assert picture.size == (274, 274)


def test_a_npy_file_holds_the_images_as_bytes(here: Path) -> None:
    images = drawn("plain", "--n", "5")
    assert images.dtype == np.uint8
    assert images.shape == (5, 1, 8, 8)
    assert images.std() > 0
    colour = drawn("colour", "--n", "3")
    assert colour.dtype == np.uint8
    assert colour.shape == (3, 3, 8, 8)


def test_a_npy_file_holds_points_as_floats(here: Path) -> None:
    points = drawn("points", "--n", "1000")
    assert points.dtype == np.float32
    assert points.shape == (1000, 2)
    assert np.isfinite(points).all()


def test_points_can_be_drawn_as_a_picture(here: Path) -> None:
    assert sample(["points", "--n", "100", "--out", "points.png"]) == 0
    with Image.open("points.png") as picture:
        assert min(picture.size) >= 300


def test_the_picture_shows_the_samples(here: Path) -> None:
    assert sample(["plain", "--n", "4", "--out", "four.png"]) == 0
    images = drawn("plain", "--n", "4")
    with Image.open("four.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    # Each 8x8 image is enlarged four times and stands 2 pixels from the next.
    for index, image in enumerate(images[:, 0]):
        left = 2 + index * 34
        assert np.array_equal(pixels[2 : 2 + 32 : 4, left : left + 32 : 4], image)


@pytest.mark.parametrize("run", ["plain", "averaged", "points", "colour"])
@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    run: str, suffix: str, here: Path
) -> None:
    for name, seed in (("one", "7"), ("same", "7"), ("other", "8")):
        words = [run, "--n", "300", "--seed", seed, "--out", f"{name}.{suffix}"]
        assert sample(words) == 0
    one, same, other = ((here / f"{n}.{suffix}").read_bytes() for n in ("one", "same", "other"))
    assert one == same
    assert one != other


def test_a_sample_does_not_depend_on_the_global_seed(here: Path) -> None:
    torch.manual_seed(1)
    first = drawn("plain")
    torch.manual_seed(2)
    assert np.array_equal(drawn("plain"), first)


def test_it_is_in_eval_mode_so_one_sample_does_not_depend_on_the_others(here: Path) -> None:
    assert np.array_equal(drawn("colour", "--n", "2"), drawn("colour", "--n", "9")[:2])


def test_the_averaged_generator_is_used_and_raw_is_the_other(here: Path) -> None:
    # Averaging does not change what is trained, so the raw generators of both runs are one.
    averaged, raw = drawn("averaged"), drawn("averaged", "--raw")
    assert not np.array_equal(averaged, raw)
    assert np.array_equal(raw, drawn("plain"))
    assert np.array_equal(drawn("plain", "--raw"), drawn("plain"))


def test_one_checkpoint_can_be_named(here: Path) -> None:
    newest, older = (f"plain/checkpoints/step_0000000{step}.pt" for step in (2, 1))
    assert np.array_equal(drawn(newest), drawn("plain"))
    assert not np.array_equal(drawn(older), drawn("plain"))


def test_neither_the_data_set_nor_the_config_file_is_needed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*arguments: object, **words: object) -> None:
        raise AssertionError("the data set was read")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", missing)
    monkeypatch.setattr("wgan_cli.data.images.digits_table", missing)
    (here / "colour" / "config.yaml").unlink()
    assert drawn("colour", "--n", "2").shape == (2, 3, 8, 8)
    assert drawn("plain", "--n", "2").shape == (2, 1, 8, 8)


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = drawn("plain/checkpoints/step_00000001.pt")
    newest = here / "plain" / "checkpoints" / "step_00000002.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    capsys.readouterr()
    assert np.array_equal(drawn("plain"), expected)
    assert "step_00000002.pt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["plain", "--n", "0"], 2, ["--n 0", "at least 1"]),
        (["plain", "--n", "-3"], 2, ["--n"]),
        (["plain", "--seed", "-1"], 2, ["--seed -1"]),
        (["plain", "--out", "picture.jpg"], 2, ["picture.jpg", ".png", ".npy"]),
        (["plain", "--out", "picture"], 2, ["picture", ".png", ".npy"]),
        (["plain", "--out", "nowhere/picture.png"], 2, ["nowhere"]),
        (["nowhere"], 4, ["nowhere"]),
        (["empty"], 4, ["empty", "checkpoint"]),
        (["notes.txt"], 4, ["notes.txt"]),
        (["plain", "--out", "taken.png"], 7, ["taken.png"]),
    ],
)
def test_a_mistake_is_refused_in_plain_words(
    words: list[str], code: int, named: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "empty").mkdir()
    (here / "notes.txt").write_text("no checkpoint")
    (here / "taken.png").mkdir()
    before = sorted(here.rglob("*"))
    assert sample(words) == code
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err.startswith("wgan-sample: ")
    assert "Traceback" not in answer.err
    assert len(answer.err.splitlines()) == 1
    for part in named:
        assert part in answer.err
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("words", [["plain", "--n", "many"], [], ["plain", "--nn", "3"]])
def test_words_that_cannot_be_read_are_exit_2(
    words: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_of:
        sample(words)
    assert exit_of.value.code == 2
    assert "wgan-sample" in capsys.readouterr().err


def test_a_refusal_imports_no_torch(shell: Command, tmp_path: Path) -> None:
    start = time.perf_counter()
    answer = shell("nowhere", command="wgan-sample")
    assert answer.returncode == 4
    assert time.perf_counter() - start < 3


def test_a_class_of_the_users_own_needs_trust(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "modules").mkdir()
    (here / "modules" / "own_sampled.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(str(here / "modules"))
    monkeypatch.setattr(sys, "argv", ["wgan-train"])
    own = [
        "model.generator._target_=own_sampled.Generator",
        "~model.generator.width",
        "~model.generator.depth",
    ]
    words = [word for word in TINY if not word.startswith("model.generator")]
    assert train([*words, *own, "hydra.run.dir=own"]) == 0
    sys.modules.pop("own_sampled")
    capsys.readouterr()
    assert sample(["own"]) == 4
    stderr = capsys.readouterr().err
    assert "own_sampled.Generator" in stderr
    assert "--trust own_sampled" in stderr
    assert "own_sampled" not in sys.modules
    assert drawn("own", "--n", "2", "--trust", "own_sampled").shape == (2, 1, 8, 8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_no_numbers_are_exit_5_and_no_picture(
    value: float, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([*TINY, "hydra.run.dir=run"]) == 0
    (path,) = (here / "run" / "checkpoints").glob("step_*.pt")
    state = load_checkpoint(path)
    for key in ("generator", "generator_ema"):
        for weights in state.get(key, {}).values():
            weights.fill_(value)
    save_checkpoint(path, state)
    before = sorted(here.rglob("*"))
    for words in (["run"], ["run", "--out", "mine.npy"], ["run", "--raw", "--out", "mine.png"]):
        capsys.readouterr()
        assert sample(words) == 5
        said = capsys.readouterr().err
        assert "NaN or infinite" in said
        assert len(said.splitlines()) == 1
    assert sorted(here.rglob("*")) == before


def test_a_npy_file_is_what_numpy_saves(here: Path) -> None:
    # Three batches, of which the last is not full.
    for run, n in (("plain", "700"), ("colour", "300"), ("points", "700")):
        array, saved = drawn(run, "--n", n), io.BytesIO()
        np.save(saved, array)
        assert len(array) == int(n)
        assert Path("drawn.npy").read_bytes() == saved.getvalue()


def test_each_batch_is_the_generators_own(here: Path) -> None:
    state = load_checkpoint(here / "averaged" / "checkpoints" / "step_00000002.pt")
    path = here / "averaged" / "checkpoints" / "step_00000002.pt"
    generator = trusted_generator(state, path, (), raw=False)
    expected = [
        to_bytes(generate(generator, Draws(5, Stream.SAMPLES, 1, batch).normal((256, 4), CPU)))
        for batch in range(2)
    ]
    assert np.array_equal(drawn("averaged", "--n", "400", "--seed", "5"), torch.cat(expected)[:400])


@pytest.fixture
def third_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Set what happens in place of the third batch of samples."""

    def set_up(event: Callable[[], object]) -> None:
        batches: list[object] = []

        def or_event(*arguments: Any) -> Any:
            batches.append(arguments)
            # What came before is on its way to the disk, not in memory.
            if len(batches) == 3:
                (partial,) = Path.cwd().glob(".mine.npy.*.tmp")
                assert partial.stat().st_size > 2**14
            return generate(*arguments) if len(batches) < 3 else event()

        monkeypatch.setattr("wgan_cli.commands.sample_file.generate", or_event)

    return set_up


def interrupt() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


@pytest.mark.parametrize(
    ("event", "code", "said"),
    [
        (interrupt, 130, "interrupted"),
        (terminate, 75, "nothing is written"),
        (lambda: torch.full((256, 1, 8, 8), torch.nan), 5, "step_00000002.pt: .*NaN or infinite"),
        (lambda: torch.empty(1 << 60), 6, "out of memory"),
    ],
)
def test_samples_that_end_early_leave_the_old_file(
    event: Callable[[], object],
    code: int,
    said: str,
    here: Path,
    third_batch: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("mine.npy").write_bytes(b"before")
    before = sorted(here.rglob("*"))
    third_batch(event)
    assert sample(["plain", "--n", "800", "--out", "mine.npy"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(f"wgan-sample: .*{said}", line)
    assert Path("mine.npy").read_bytes() == b"before"
    assert sorted(here.rglob("*")) == before


def test_a_picture_shows_all_batches_of_points(here: Path) -> None:
    expected = as_png(points(drawn("points", "--n", "600")))
    assert sample(["points", "--n", "600", "--out", "points.png"]) == 0
    assert Path("points.png").read_bytes() == expected


def test_a_link_keeps_its_target(here: Path) -> None:
    Path("elsewhere").mkdir()
    Path("drawn.npy").symlink_to("elsewhere/samples.npy")
    images = drawn("plain", "--n", "3")
    assert Path("drawn.npy").is_symlink()
    assert np.array_equal(np.load("elsewhere/samples.npy"), images)


def test_a_picture_of_too_many_names_the_most(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("wgan_cli.commands.sample_file.MOST_PIXELS", 500_000)
    assert sample(["plain", "--n", "10000000", "--out", "many.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    found = re.fullmatch(
        r"wgan-sample: --n 10000000: a \.png holds at most (\d+) of these images; name a \.npy"
        r" file with --out\.",
        line,
    )
    assert found is not None
    assert not Path("many.png").exists()
    most = int(found[1])
    assert sample(["plain", "--n", str(most), "--out", "most.png"]) == 0
    with Image.open("most.png") as picture:
        assert picture.size[0] * picture.size[1] <= 500_000
    # A row more cannot be there.
    assert sample(["plain", "--n", str(most + int(most**0.5) + 2), "--out", "more.png"]) == 2
