"""Checkpoints: whole or not there, verified, and never a way to run code."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import wgan_cli
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


def test_every_torch_load_in_the_source_is_literally_safe():
    calls = []
    for path in Path(wgan_cli.__file__).parent.rglob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if "torch.load(" in line:
                calls.append(f"{path.name}:{number}")
                assert "weights_only=True" in line, calls[-1]
    assert calls


def test_nothing_in_the_source_unpickles_by_itself():
    for path in Path(wgan_cli.__file__).parent.rglob("*.py"):
        text = path.read_text()
        for word in ("import pickle", "pickle.load", "allow_pickle=True", "weights_only=False"):
            assert word not in text, path
