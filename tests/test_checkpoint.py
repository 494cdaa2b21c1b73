"""Checkpoints: whole or not there, verified, and never a way to run code."""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, checkpoints_of, composed, trained
from torch import nn

from wgan_cli.commands import evaluate, sample
from wgan_cli.commands.train import run
from wgan_cli.errors import CheckpointError, WganError
from wgan_cli.training.checkpoint import (
    checkpoint_name,
    find_checkpoints,
    load_checkpoint,
    load_newest,
    prune_checkpoints,
    save_checkpoint,
    step_of,
)


def state(step: int = 3) -> dict[str, Any]:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return {
        "step": step,
        "generator": network.state_dict(),
        "critic": nn.Linear(2, 1).state_dict(),
        "optimizer": optimizer.state_dict(),
        "config": {"name": "mlp", "betas": [0.0, 0.9], "resume": None},
    }


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / checkpoint_name(3)
    save_checkpoint(path, state())
    return path


def test_what_is_saved_is_what_is_loaded(tmp_path: Path):
    path, before = tmp_path / "step_00000003.pt", state()
    save_checkpoint(path, before)
    after = load_checkpoint(path)
    assert after["step"] == 3
    assert after["config"] == before["config"]
    assert list(after["generator"]) == list(before["generator"])
    for name, tensor in before["generator"].items():
        assert torch.equal(after["generator"][name], tensor)
    moments = after["optimizer"]["state"][0]
    assert torch.equal(moments["exp_avg_sq"], before["optimizer"]["state"][0]["exp_avg_sq"])


def test_plain_torch_load_reads_it_safely(saved: Path):
    loaded = torch.load(saved, weights_only=True)
    assert isinstance(loaded["generator"], dict)
    nn.Linear(2, 1).load_state_dict(loaded["critic"])


def test_saving_again_replaces_the_file(saved: Path):
    save_checkpoint(saved, state(step=99))
    assert load_checkpoint(saved)["step"] == 99
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_every_truncation_is_refused(saved: Path):
    data = saved.read_bytes()
    offsets = [len(data) * part // 20 for part in range(20)]
    for kept in [*offsets, len(data) - 1, len(data) - 64, len(data) - 82, len(data) - 83]:
        saved.write_bytes(data[:kept])
        with pytest.raises(CheckpointError, match=saved.name):
            load_checkpoint(saved)


def test_every_flipped_byte_is_refused(saved: Path):
    data = saved.read_bytes()
    rng = random.Random(0)
    places = [rng.randrange(len(data)) for _ in range(100)]
    for place in [*places, *range(len(data) - 120, len(data))]:
        broken = bytearray(data)
        broken[place] ^= 1 << rng.randrange(8)
        saved.write_bytes(broken)
        with pytest.raises(CheckpointError, match=saved.name):
            load_checkpoint(saved)


def test_bytes_after_the_end_are_refused(saved: Path):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(CheckpointError):
        load_checkpoint(saved)


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path):
    path = tmp_path / "step_00000001.pt"
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)
    for content in (b"", b"hello", os.urandom(5000)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
    torch.save(state(), path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path)


def test_a_state_of_another_format_is_refused(tmp_path: Path):
    path = tmp_path / "step_00000001.pt"
    save_checkpoint(path, {"format": -1, "step": 1})
    with pytest.raises(CheckpointError, match="version"):
        load_checkpoint(path)


def test_newest_is_by_step_and_not_by_time(tmp_path: Path):
    for step in (20, 100_000_000, 5):
        save_checkpoint(tmp_path / checkpoint_name(step), {"step": step})
    loaded, path, warnings = load_newest(tmp_path)
    assert loaded is not None and path is not None
    assert loaded["step"] == 100_000_000
    assert step_of(path) == 100_000_000
    assert warnings == []


def test_a_damaged_newest_is_passed_over_with_a_warning(tmp_path: Path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / checkpoint_name(step), {"step": step})
    (tmp_path / checkpoint_name(3)).write_bytes(b"")
    data = bytearray((tmp_path / checkpoint_name(2)).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / checkpoint_name(2)).write_bytes(data)
    loaded, path, warnings = load_newest(tmp_path)
    assert loaded is not None and loaded["step"] == 1
    assert path == tmp_path / checkpoint_name(1)
    assert len(warnings) == 2
    assert checkpoint_name(3) in warnings[0]
    assert checkpoint_name(2) in warnings[1]


def test_nothing_to_load(tmp_path: Path):
    assert load_newest(tmp_path) == (None, None, [])
    (tmp_path / checkpoint_name(3)).write_bytes(b"")
    loaded, path, warnings = load_newest(tmp_path)
    assert loaded is None and path is None
    assert len(warnings) == 1


def test_other_files_are_passed_over(tmp_path: Path):
    for name in ("step_00000009.tmp", "step_00000010.pt.bak", "step_1.pt", "other.pt", "step_x.pt"):
        (tmp_path / name).write_bytes(b"")
    save_checkpoint(tmp_path / checkpoint_name(3), {"step": 3})
    assert find_checkpoints(tmp_path) == [tmp_path / checkpoint_name(3)]
    with pytest.raises(CheckpointError):
        step_of(tmp_path / "other.pt")


def test_a_payload_never_runs(tmp_path: Path):
    path, trace = tmp_path / "step_00000001.pt", tmp_path / "payload_ran"
    save_checkpoint(path, {"step": 1, "generator": Payload(trace)})
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not trace.exists()


def test_a_payload_does_not_run_where_the_environment_allows_pickles(tmp_path: Path):
    path, trace = tmp_path / "step_00000001.pt", tmp_path / "payload_ran"
    save_checkpoint(path, {"step": 1, "generator": Payload(trace)})
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from wgan_cli.errors import CheckpointError\n"
        "from wgan_cli.training.checkpoint import load_checkpoint\n"
        "try:\n"
        "    load_checkpoint(Path(sys.argv[1]))\n"
        "except CheckpointError:\n"
        "    print('refused')\n"
    )
    environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "refused\n"
    assert not trace.exists()


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    saved: Path, monkeypatch: pytest.MonkeyPatch, failing: str
):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(os, "replace", fail)
        monkeypatch.setattr(Path, "replace", fail)
    before = saved.read_bytes()
    with pytest.raises((OSError, WganError)):
        save_checkpoint(saved, state(step=99))
    with pytest.raises((OSError, WganError)):
        save_checkpoint(saved.with_name(checkpoint_name(99)), state(step=99))
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert saved.read_bytes() == before


def test_an_interrupted_write_leaves_no_half_file(saved: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(saved.with_name(checkpoint_name(99)), state(step=99))
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_prune_keeps_the_newest_and_what_it_is_told(tmp_path: Path):
    for step in range(1, 7):
        save_checkpoint(tmp_path / checkpoint_name(step), {"step": step})
    (tmp_path / "notes.txt").write_text("mine")
    prune_checkpoints(tmp_path, keep=2, also=[tmp_path / checkpoint_name(3)])
    assert [step_of(path) for path in find_checkpoints(tmp_path)] == [3, 5, 6]
    assert (tmp_path / "notes.txt").exists()
    prune_checkpoints(tmp_path, keep=5)
    assert [step_of(path) for path in find_checkpoints(tmp_path)] == [3, 5, 6]


def sections(data: bytes) -> dict[str, range]:
    """Where the parts of a checkpoint lie: the zip's members, their directory and the seal."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
    starts = [member.header_offset for member in members] + [data.index(b"PK\x01\x02")]
    found = {
        f"{part} of {member.filename}": range(*bounds)
        for member, start, after in zip(members, starts, starts[1:], strict=False)
        for part, bounds in {
            "header": (start, start + 30),
            "contents": (after - member.compress_size - 1, after),
        }.items()
        if member.compress_size
    }
    end = data.rindex(b"PK\x05\x06")
    return {
        **found,
        "the directory": range(starts[-1], end),
        "the end record": range(end, end + 22),
        "the seal's name": range(end + 22, end + 40),
        "the checksum": range(end + 40, len(data)),
    }


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint of each step."""
    here = tmp_path_factory.mktemp("three_steps")
    words = [*TINY, "steps=3", "checkpoint_every=1", "keep_every=1", "decay.kind=none"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(sys, "argv", ["wgan-train"])
        assert run([*words, f"hydra.run.dir={here / 'run'}"]) == 0
    return here / "run"


@pytest.fixture
def damaged(three_steps: Path, here: Path) -> Path:
    """A copy of it, to be damaged, that its own words go on with to step 4."""
    return shutil.copytree(three_steps, here / "run")


@pytest.fixture(scope="module")
def four_steps() -> Any:
    return composed([*TINY, "steps=4", "checkpoint_every=1", "keep_every=1", "decay.kind=none"])


def test_damage_anywhere_in_a_runs_checkpoint_is_found(damaged: Path):
    path, rng = checkpoints_of(damaged)[-1], random.Random(20171)
    data = path.read_bytes()
    places = [rng.randrange(len(data)) for _ in range(100)]
    for place in [*places, *(rng.choice(section) for section in sections(data).values())]:
        broken = bytearray(data)
        broken[place] ^= rng.randrange(1, 256)
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=path.name):
            load_checkpoint(path)
    path.write_bytes(data)
    assert load_checkpoint(path)["step"] == 3


def test_a_runs_checkpoint_that_is_cut_short_is_refused_by_every_command(
    damaged: Path, four_steps: Any, capsys: pytest.CaptureFixture[str]
):
    path, rng = checkpoints_of(damaged)[-1], random.Random(20171)
    data = path.read_bytes()
    within = [rng.choice(section) for section in sections(data).values()]
    offsets = [0, 1, len(data) - 1, *rng.sample(within[:-4], 12), *within[-4:], len(data) // 2]
    assert len(set(offsets)) == 20
    for kept in offsets:
        path.write_bytes(data[:kept])
        capsys.readouterr()
        assert trained(four_steps, damaged.with_name("fork"), resume=str(path)) == 4
        assert sample.run([str(path), "--out", "samples.png"]) == 4
        assert evaluate.run([str(path)]) == 4
        said = capsys.readouterr().err.splitlines()
        reason = f"is cut short or damaged ({kept} bytes, no checksum at its end)."
        assert [line.endswith(f"{path.name} {reason}") for line in said] == [True] * 3
    assert [path.name for path in damaged.parent.iterdir()] == ["run"]
    assert run([f"resume={path}", "steps=4", "hydra.run.dir=fork"]) == 4
    assert "cut short" in capsys.readouterr().err


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zeroed(path: Path) -> None:
    """As a power failure leaves a file whose length was on the disk before its contents."""
    path.write_bytes(bytes(path.stat().st_size))


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.unlink()
    (path / "more").mkdir(parents=True)


def a_dead_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: os.truncate(path, 1000),
    "empty": lambda path: os.truncate(path, 0),
    "flipped": flipped,
    "zeroed": zeroed,
    "of another format": lambda path: path.write_bytes(b"hello"),
    "a pipe": a_pipe,
    "a folder": a_folder,
    "a dead link": a_dead_link,
}
FILES = {"cut short", "empty", "flipped", "zeroed", "of another format"}


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """What waits for a pipe fails instead."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    damage: str,
    count: int,
    damaged: Path,
    three_steps: Path,
    four_steps: Any,
    capsys: pytest.CaptureFixture[str],
):
    bad = checkpoints_of(damaged)[-count:]
    for path in bad:
        DAMAGES[damage](path)
    capsys.readouterr()
    assert sample.run([str(damaged), "--n", "4", "--out", "samples.png"]) == 0
    assert [path.name in capsys.readouterr().err for path in bad[:1]] == [damage in FILES]
    for path in bad:
        for code in (
            trained(four_steps, damaged.with_name("fork"), resume=str(path)),
            sample.run([str(path), "--n", "4"]),
            evaluate.run([str(path)]),
        ):
            assert code == 4
    said = capsys.readouterr().err
    assert "Traceback" not in said
    code = trained(four_steps, damaged, resume="auto")
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if damage == "a folder":
        # A file cannot take its place, and what the folder holds is not ours to delete.
        assert code == 7
        assert f"run/checkpoints/{bad[0].name}" in said
        return
    assert code == 0
    assert f"Going on from run/checkpoints/step_{3 - count:08d}.pt" in said
    warned = [line for line in said.splitlines() if line.endswith("It is skipped.")]
    assert len(warned) == (count if damage in FILES else 0)
    assert [step_of(path) for path in find_checkpoints(damaged / "checkpoints")] == [1, 2, 3, 4]
    whole = load_checkpoint(checkpoints_of(three_steps)[-1])
    again = load_checkpoint(checkpoints_of(damaged)[-2])
    assert all(torch.equal(again["critic"][name], value) for name, value in whole["critic"].items())


def test_nothing_is_begun_anew_where_every_checkpoint_is_damaged(
    damaged: Path, capsys: pytest.CaptureFixture[str]
):
    for path in checkpoints_of(damaged):
        flipped(path)
    before = sorted(damaged.rglob("*"))
    words = [*TINY, "steps=4", "decay.kind=none", "hydra.run.dir=run", "resume=auto"]
    assert run(words) == 4
    assert "there is no checkpoint that can be read" in capsys.readouterr().err
    assert sorted(damaged.rglob("*")) == before


def test_too_little_memory_is_no_damage(saved: Path, monkeypatch: pytest.MonkeyPatch):
    def no_room(*_: object, **__: object) -> None:
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
        )

    monkeypatch.setattr(torch, "load", no_room)
    with pytest.raises(RuntimeError, match="allocate"):
        load_newest(saved.parent)


def test_a_checkpoint_and_its_name_are_on_the_disk_when_saving_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noting(descriptor: int) -> None:
        folder = os.path.samestat(os.fstat(descriptor), tmp_path.stat())
        done.append("folder" if folder else "file")
        fsync(descriptor)

    def moving(self: Path, target: Path) -> Path:
        done.append("move")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(Path, "replace", moving)
    save_checkpoint(tmp_path / "step_00000003.pt", state())
    assert done == ["file", "move", "folder"]
