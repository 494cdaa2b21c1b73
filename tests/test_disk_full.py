"""A disk that is full: exit 7 with the bytes, the checkpoint before it sound, and a way on."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, assert_same_state, exhaustive_beyond, status_of
from small_disk import SmallDisk, heard, on_small_disk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wgan_cli.commands import evaluate, sample
from wgan_cli.commands.train import run
from wgan_cli.errors import DiskError, InterruptedRunError
from wgan_cli.files import RecordFile, disk_error, overwrite_in_place, write_atomically
from wgan_cli.loggers import Measurements, RunInfo, tensorboard
from wgan_cli.loggers.tensorboard import TensorBoard
from wgan_cli.run_folder import RunFolder
from wgan_cli.training.callbacks import checkpoints, record, sample_pictures
from wgan_cli.training.callbacks.protocol import Callback
from wgan_cli.training.checkpoint import find_checkpoints, load_checkpoint
from wgan_cli.training.failures import call_on_end

WORDS = [
    *TINY,
    "steps=6",
    "log_every=1",
    "sample_every=3",
    "checkpoint_every=2",
    "metrics=[wasserstein/exact]",
    "eval_samples=16",
    "hydra.run.dir=run",
]
STEPS = list(range(1, 7))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert heard(run, *WORDS)[0] == 0
    return folder / "run"


@pytest.fixture(params=["disk", "file size"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> SmallDisk:
    return SmallDisk(tmp_path, 2_000_000, wanted=request.param == "disk")


def filling(disk: SmallDisk, owner: Any, name: str, when: Callable[..., bool]) -> None:
    """The first time that the function is called with such arguments, the disk is full before."""
    original, calls = getattr(owner, name), iter([True])

    def called(*arguments: Any, **named: Any) -> Any:
        if when(*arguments) and next(calls, False):
            disk.fill()
        return original(*arguments, **named)

    setattr(owner, name, called)


def checkpoint(disk: SmallDisk) -> None:
    filling(disk, checkpoints, "save_checkpoint", lambda path, state: state["step"] == 4)


def picture(disk: SmallDisk) -> None:
    filling(disk, sample_pictures, "save_png", lambda path, pixels: path.stem == "step_00000003")


def events(disk: SmallDisk) -> None:
    filling(disk, TensorBoard, "log", lambda self, point: point.step == 3 and point.histograms)


def last_events(disk: SmallDisk) -> None:
    # More than fits on the page that the file has begun.
    tensorboard.hyperparameters = lambda settings: {"long": "name" * 2000}
    filling(disk, tensorboard, "hparams", lambda *settings: True)


def metrics(disk: SmallDisk) -> None:
    def at_the_end_of_a_page(folder: RunFolder, step: int, values: object) -> bool:
        if step == 4:
            file = folder.path / "metrics.jsonl"
            with file.open("a") as more:
                more.write("\n" * (-file.stat().st_size % 4096))
        return step == 4

    filling(disk, RunFolder, "append_metrics", at_the_end_of_a_page)


def status(disk: SmallDisk) -> None:
    filling(disk, record, "write_status", lambda folder, status: status.step == 4)


STORIES = {
    "checkpoints/step_00000004.pt": checkpoint,
    "samples/step_00000003.png": picture,
    "tensorboard/events.out.tfevents.": events,
    "tensorboard/events.": last_events,
    "metrics.jsonl": metrics,
    "status.json": status,
}


@pytest.mark.parametrize(
    ("disk", "place"),
    exhaustive_beyond(
        [("disk", "checkpoints/step_00000004.pt"), ("file size", "metrics.jsonl")],
        itertools.product(["disk", "file size"], STORIES),
    ),
    indirect=["disk"],
)
def test_a_run_ends_with_7_and_goes_on_where_there_is_room(
    disk: SmallDisk, place: str, uninterrupted: Path
) -> None:
    def story(disk: SmallDisk) -> None:
        STORIES[place](disk)
        code, said = heard(run, *WORDS)
        assert code == 7, said
        answer = said.splitlines()[-1]
        # A status is smaller than the limit that stands for a full disk.
        hit = "tensorboard" if place == "status.json" and not disk.mounted else place
        assert re.search(rf" run/{hit}\S* needs [\d,]+ bytes and [\d,]+ are free\.", answer)
        assert answer.endswith("Then go on with: wgan-train resume=run")
        assert "Traceback" not in said
        status = status_of(folder)
        assert (status["state"], status["exit_code"]) == ("failed", 7)
        assert status["message"] in answer
        assert not list(folder.rglob("*tmp"))
        for path in find_checkpoints(folder / "checkpoints"):
            load_checkpoint(path)

        disk.make_room()
        assert heard(run, "resume=run")[0] == 0
        assert status_of(folder)["state"] == "finished"
        assert_same_state(folder, uninterrupted)
        assert [point["step"] for point in RunFolder(folder).read_metrics()] == STEPS
        assert curve(folder) == STEPS
        assert drawn(folder) == [0, 3, 6]

    folder = Path("run")
    on_small_disk(disk, story)


def curve(run: Path) -> list[int]:
    shown = EventAccumulator(str(run / "tensorboard")).Reload()
    return [event.step for event in shown.Scalars("critic/wasserstein")]


def drawn(run: Path) -> list[int]:
    shown = EventAccumulator(str(run / "tensorboard")).Reload()
    return [event.step for event in shown.Images("samples/fake")]


def test_a_disk_that_is_full_from_the_start_keeps_no_folder(disk: SmallDisk) -> None:
    def story(disk: SmallDisk) -> None:
        disk.fill()
        code, said = heard(run, *WORDS)
        assert code == 7
        assert "Traceback" not in said
        assert re.search(r"run/\S+ needs [\d,]+ bytes and [\d,]+ are free", said)
        if disk.mounted:
            assert not Path("run").exists()
        disk.make_room()
        assert heard(run, *WORDS, "resume=auto")[0] == 0

    on_small_disk(disk, story)


def test_a_log_that_cannot_be_written_ends_the_run_after_its_checkpoint(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = RecordFile.__init__

    def opened_on_a_full_disk(file: RecordFile, path: Path) -> None:
        opened(file, Path("/dev/full") if path.name == "train.log" else path)
        file.path = path

    with monkeypatch.context() as patch:
        patch.setattr(RecordFile, "__init__", opened_on_a_full_disk)
        code, said = heard(run, *WORDS, "log_every=2")
    assert code == 7
    assert "Traceback" not in said
    assert "wgan-train: The disk is full: run/train.log needs" in said
    assert said.endswith("Then go on with: wgan-train resume=run\n")
    status = status_of(here / "run")
    assert (status["state"], status["exit_code"], status["step"]) == ("failed", 7, 2)
    (saved,) = find_checkpoints(here / "run" / "checkpoints")
    assert load_checkpoint(saved)["step"] == 2
    assert heard(run, "resume=run")[0] == 0


@pytest.mark.exhaustive
def test_a_sweep_says_which_jobs_were_lost_and_makes_them_up(disk: SmallDisk) -> None:
    def story(disk: SmallDisk) -> None:
        sweep = ["-m", *WORDS[:-1], "seed=1,2", "hydra.sweep.dir=sweep"]
        checkpoint(disk)
        code, said = heard(run, *sweep)
        assert code == 1
        assert "Traceback" not in said
        assert "sweep/0/checkpoints/step_00000004.pt needs" in said
        assert "sweep/1/" in said
        disk.make_room()
        assert heard(run, *sweep)[0] == 0
        assert [status_of(Path("sweep", job))["state"] for job in "01"] == ["finished"] * 2

    on_small_disk(disk, story)


def test_a_sweep_that_cannot_begin_is_7(disk: SmallDisk) -> None:
    def story(disk: SmallDisk) -> None:
        disk.fill()
        code, said = heard(run, "-m", *WORDS[:-1], "seed=1,2", "hydra.sweep.dir=sweep")
        assert code == 7
        assert "Traceback" not in said

    on_small_disk(disk, story)


def test_an_error_is_not_hidden_by_a_disk_that_cannot_tell_of_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        monkeypatch.setattr("wgan_cli.run_status.write_atomically", full)
        monkeypatch.setattr("wgan_cli.run_status.overwrite_in_place", lambda path, data: False)
        (here / "run" / "train.log").unlink()
        raise ZeroDivisionError("the first error")

    def full(path: Path, *content: object, **how: object) -> None:
        raise disk_error(OSError(errno.ENOSPC, "No space left on device"), path, 10)

    monkeypatch.setattr(checkpoints, "save_checkpoint", broken)
    code, said = heard(run, *WORDS)
    assert code == 1
    assert "the first error" in said
    assert "The disk is full" not in said
    assert status_of(here / "run")["state"] == "running"


def test_samples_and_evaluations_say_so_too(disk: SmallDisk, uninterrupted: Path) -> None:
    def story(disk: SmallDisk) -> None:
        shutil.copytree(uninterrupted, "run")
        Path("mine.npy").write_bytes(b"before")
        disk.fill()
        for words in (["run"], ["run", "--out", "mine.npy", "--n", "100"]):
            code, said = heard(sample.run, *words)
            assert code == 7
            assert re.fullmatch(r"wgan-sample: .* needs [\d,]+ bytes and [\d,]+ are free.*\n", said)
        assert Path("mine.npy").read_bytes() == b"before"
        if disk.mounted:
            code, said = heard(evaluate.run, "run", "--metrics", "exact", "--n", "16")
            assert code == 7
            assert "wgan-eval: The disk is full: run/evaluation.json needs" in said
        assert not list(Path().rglob("*tmp"))
        disk.make_room()
        assert heard(sample.run, "run", "--out", "mine.npy", "--n", "100")[0] == 0
        assert np.load("mine.npy").shape == (100, 1, 8, 8)

    on_small_disk(disk, story)


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_an_answer_that_cannot_be_written_is_7_and_no_traceback(word: str) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "wgan_cli", word],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 7
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("code", "left"), [(0, 7), (3, 3)])
def test_the_exit_code_does_not_depend_on_where_the_output_went(code: int, left: int) -> None:
    program = (
        "import sys; from wgan_cli.commands.cli import exit_process, print_error\n"
        f"print('table'); print_error('sentence'); exit_process({code})"
    )
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=full, env=buffered, check=False
        )
    assert done.returncode == left


def test_what_a_killed_process_left_half_written_goes_when_the_run_goes_on(
    here: Path, uninterrupted: Path
) -> None:
    shutil.copytree(uninterrupted, here / "run")
    left = [
        "checkpoints/.step_00000008.pt.77.tmp",
        "checkpoints/step_00000008.tmp",
        "samples/.step_00000008.png.77.tmp",
        ".status.json.77.tmp",
        ".metrics.jsonl.tmp",
    ]
    others = ["samples/.mine.npy.78.tmp", ".evaluation.json.78.tmp"]
    for name in [*left, *others]:
        (here / "run" / name).write_bytes(b"half")
    assert heard(run, "resume=run", "steps=7")[0] == 0
    assert not any((here / "run" / name).exists() for name in left)
    # Their writers hold no lock and may be at work.
    assert all((here / "run" / name).exists() for name in others)


def test_event_files_hold_whole_records_up_to_the_failure(disk: SmallDisk) -> None:
    def story(disk: SmallDisk) -> list[int]:
        logger = TensorBoard()
        logger.start(RunInfo(Path(), {}, step=0, first=True))
        for step in (1, 2):
            logger.log(Measurements(step, scalars={"curve": step}))
        disk.fill()
        with pytest.raises(DiskError, match="tfevents"):
            logger.log(Measurements(3, text={"long": "word" * 5000}))
        disk.make_room()
        logger.log(Measurements(4, scalars={"curve": 4}))
        logger.close()
        shown = EventAccumulator("tensorboard").Reload()
        assert "long/text_summary" not in shown.Tags()["tensors"]
        return [event.step for event in shown.Scalars("curve")]

    assert on_small_disk(disk, story) == [1, 2, 4]


def test_a_file_is_written_whole_or_left_as_it_was(disk: SmallDisk) -> None:
    def story(disk: SmallDisk) -> None:
        path = Path("file")
        write_atomically(path, b"before")
        Path("link").symlink_to("file")
        disk.fill()
        for name in ("file", "link", "new"):
            with pytest.raises(DiskError, match=rf"{name} needs 20,000 bytes and [\d,]+ are free"):
                write_atomically(Path(name), bytes(20_000))
        assert path.read_bytes() == b"before"
        assert sorted(p.name for p in Path().iterdir() if p.name != "filler") == ["file", "link"]
        disk.make_room()
        write_atomically(Path("link"), b"after")
        assert Path("link").is_symlink()
        assert path.read_bytes() == b"after"

    on_small_disk(disk, story)


def test_a_file_grows_by_whole_records(disk: SmallDisk) -> None:
    def story(disk: SmallDisk) -> None:
        with RecordFile(Path("log")) as log:
            log.write(b"first\n")
            disk.fill()
            with pytest.raises(DiskError, match="log needs 60,000 bytes"):
                log.write(b"second" * 10_000)
            disk.make_room()
            log.write(b"third\n")
        assert Path("log").read_bytes() == b"first\nthird\n"

    on_small_disk(disk, story)


def test_a_last_word_is_put_over_what_was_there(disk: SmallDisk) -> None:
    def story(disk: SmallDisk) -> None:
        path = Path("status")
        path.write_bytes(b"running" * 20)
        disk.fill()
        assert overwrite_in_place(path, b"failed")
        assert path.read_bytes() == b"failed"
        assert overwrite_in_place(path, b"failed" * 30)
        assert not overwrite_in_place(path, b"x" * 50_000)
        assert path.read_bytes() == b"failed" * 30
        assert not overwrite_in_place(Path("none"), b"x")

    on_small_disk(disk, story)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "The disk is full: {} needs 12,345 bytes and "),
        (errno.EDQUOT, "The disk quota is used up: {} needs 12,345 bytes and "),
        (errno.EFBIG, "A file is as large as it may be: {} needs 12,345 bytes and "),
        (errno.EACCES, "{} cannot be written: Permission denied."),
    ],
)
def test_a_failure_is_said_in_words(tmp_path: Path, number: int, words: str) -> None:
    path = tmp_path / "file"
    said = str(disk_error(OSError(number, os.strerror(number)), path, 12_345))
    assert said.startswith(words.format(path))


class Ends(Callback):
    """Notes the error it is told of, and fails by another."""

    def __init__(self, failure: Exception | None) -> None:
        self.failure = failure
        self.told: object = "nothing"

    def on_end(self, trainer: Any, error: BaseException | None) -> None:
        self.told = error
        if self.failure is not None:
            raise self.failure


@pytest.mark.parametrize("earlier", [None, InterruptedRunError("Interrupted.")])
def test_every_callback_hears_of_the_end_and_the_first_error_counts(
    earlier: InterruptedRunError | None,
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "events")
    callbacks = [Ends(None), Ends(OSError("the second")), Ends(full)]
    on_end = [partial(callback.on_end, None) for callback in reversed(callbacks)]
    if earlier is None:
        with pytest.raises(DiskError, match="The disk is full: events"):
            call_on_end(on_end, None, 16)
        assert isinstance(callbacks[0].told, DiskError)
    else:
        call_on_end(on_end, earlier, 16)
        assert callbacks[0].told is earlier
