"""Too little memory: exit 6 with the peak and what to try, and the newest checkpoint kept."""

from __future__ import annotations

import ctypes
import errno
import re
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, status_of
from small_disk import SmallDisk, heard, on_small_disk

from wgan_cli.commands import sample
from wgan_cli.commands.train import run
from wgan_cli.errors import OutOfMemoryError
from wgan_cli.out_of_memory import is_out_of_memory
from wgan_cli.training.callbacks import checkpoints
from wgan_cli.training.checkpoint import find_checkpoints, load_checkpoint
from wgan_cli.training.failures import in_plain_words

_MMAP_THRESHOLD = -3
# Every layer's output is a block of 80 MB, which nothing that earlier tests left in the heap can
# hold: a limit on the address space does not keep what was freed from being used again.
LARGE = [
    *TINY,
    "dataset=gaussians_ring",
    "batch_size=100000",
    "model.generator.width=208",
    "n_critic=1",
    "steps=4",
    "checkpoint_every=2",
    "metrics=[wasserstein/exact]",
    "eval_samples=16",
    "hydra.run.dir=run",
]


def leave_memory(mebibytes: int) -> None:
    """So much more than the process has now, from here on."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    limit = pages * resource.getpagesize() + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    words = ["metrics=[wasserstein/exact]", f"hydra.run.dir={folder}"]
    assert heard(run, *TINY, *words)[0] == 0
    return folder


@pytest.fixture
def apart(tmp_path: Path, finished: Path) -> SmallDisk:
    """A process whose memory may be limited; a finished run has imported all that it needs."""
    return SmallDisk(tmp_path, 1 << 28)


def test_a_run_that_is_too_large_from_the_start_leaves_no_folder(apart: SmallDisk) -> None:
    def story(disk: SmallDisk) -> None:
        leave_memory(200)
        code, said = heard(run, *TINY, "model.critic.width=9000", "hydra.run.dir=run")
        assert code == 6
        assert re.fullmatch(
            r"wgan-train: Out of memory at batch_size=16: the peak was [\d.]+ [MG]iB, and 309 MiB"
            r" more were asked for\. Try batch_size=8 or a smaller model\.\n",
            said,
        )
        assert not Path("run").exists()

    on_small_disk(apart, story)


def test_training_that_runs_out_keeps_its_newest_checkpoint(apart: SmallDisk) -> None:
    def story(disk: SmallDisk) -> None:
        # What is freed goes back to the kernel, which is then asked anew.
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 20)
        original = checkpoints.save_checkpoint

        def saved_and_short_of_memory(path: Path, state: dict[str, Any]) -> None:
            original(path, state)
            leave_memory(1)

        checkpoints.save_checkpoint = saved_and_short_of_memory
        code, said = heard(run, *LARGE)
        assert code == 6
        assert "Traceback" not in said
        assert re.search(
            r"wgan-train: Out of memory at batch_size=100000: the peak was [\d.]+ [MG]iB"
            r"(, and \d+ MiB more were asked for)?\. Try batch_size=50000 or a smaller model\."
            r" Where more memory is free, the run goes on with: wgan-train resume=run\n$",
            said,
        )
        status = status_of(Path("run"))
        assert (status["state"], status["exit_code"]) == ("failed", 6)
        # What was free already may do for a step more.
        assert 2 <= status["step"] < 4
        assert status["message"] in said
        (path,) = find_checkpoints(Path("run/checkpoints"))
        assert load_checkpoint(path)["step"] == 2

    on_small_disk(apart, story)


def test_samples_that_do_not_fit_are_6_too(apart: SmallDisk, finished: Path) -> None:
    def story(disk: SmallDisk) -> None:
        leave_memory(8)
        code, said = heard(sample.run, str(finished), "--n", "60000", "--out", "many.png")
        assert code == 6
        assert re.match(r"wgan-sample: out of memory: the peak was [\d.]+ [MG]iB", said)
        assert said.endswith("; try a smaller --n.\n")
        assert not Path("many.png").exists()

    on_small_disk(apart, story)


def test_an_evaluation_that_runs_out_names_its_own_settings(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_large(*samples: object, **settings: object) -> None:
        np.empty(1 << 37)

    monkeypatch.setattr("scipy.optimize.linear_sum_assignment", too_large)
    assert run([*TINY, "metrics=[wasserstein/exact]", "hydra.run.dir=run"]) == 6
    said = capsys.readouterr().err
    assert "Out of memory in an evaluation: the peak was" in said
    assert "1024.00 GiB more were asked for. Try smaller eval_samples and" in said
    assert status_of(here / "run")["exit_code"] == 6


def asked_of_torch() -> None:
    torch.empty(1 << 50)


def asked_of_numpy() -> None:
    np.empty(1 << 50)


def asked_of_python() -> None:
    bytearray(1 << 62)


@pytest.mark.parametrize("ask", [asked_of_torch, asked_of_numpy, asked_of_python])
def test_what_is_raised_for_want_of_memory_is_known(ask: Any) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as raised:
        ask()
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not create a memory object"),
        RuntimeError("unable to mmap 4096 bytes from file </x>: Cannot allocate memory (12)"),
        ImportError("libx.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=str,
)
def test_its_other_forms_are_known(error: Exception) -> None:
    assert isinstance(in_plain_words(error, 8), OutOfMemoryError)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (16x4 and 8x8)"),
        RuntimeError("could not create a primitive descriptor for a convolution"),
        ValueError("out of memory"),
    ],
    ids=str,
)
def test_a_defect_is_not_taken_for_it(error: Exception) -> None:
    assert in_plain_words(error, 8) is error


def test_a_batch_of_one_cannot_be_smaller() -> None:
    said = str(in_plain_words(MemoryError(), 1))
    assert re.fullmatch(
        r"Out of memory at batch_size=1: the peak was [\d.]+ [MG]iB\. Try a smaller model\.", said
    )


def test_a_gpu_says_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks, total = [2**20, 7 * 2**30], SimpleNamespace(total_memory=8 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(peaks))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", peaks.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: total)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has")
    assert str(in_plain_words(error, 256)) == (
        "Out of memory at batch_size=256: the peak was 7.00 GiB of the 8.00 GiB of cuda:1, and"
        " 2.50 GiB more were asked for. Try batch_size=128 or a smaller model."
    )


def test_a_smaller_batch_is_no_advice_while_data_are_read(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(here / "mine.npy", np.zeros((50, 2)))

    def too_large(*files: object, **settings: object) -> None:
        np.empty(1 << 50)

    monkeypatch.setattr(np, "load", too_large)
    words = ["dataset=array", "dataset.path=mine.npy", "hydra.run.dir=run"]
    assert run([*TINY, *words]) == 6
    said = capsys.readouterr().err
    assert "Out of memory while reading the data: the peak was" in said
    assert "batch_size" not in said


def test_nor_while_a_checkpoint_is_read(
    here: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def too_large(*files: object, **settings: object) -> None:
        bytearray(1 << 62)

    monkeypatch.setattr(torch, "load", too_large)
    assert run([*TINY, "metrics=[wasserstein/exact]", "steps=3", f"resume={finished}"]) == 6
    said = capsys.readouterr().err
    assert "Out of memory while reading a checkpoint: the peak was" in said
    assert "batch_size" not in said
    assert sample.run([str(finished), "--n", "1"]) == 6
    said = capsys.readouterr().err
    assert said.startswith("wgan-sample: out of memory while reading a checkpoint: the peak was")
    assert "--n" not in said
