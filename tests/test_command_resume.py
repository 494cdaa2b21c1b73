from __future__ import annotations

import gc
import itertools
import json
import math
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import (
    TINY,
    assert_same_state,
    checkpoints_of,
    exhaustive_beyond,
    metrics_of,
    state_of,
    status_of,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.forked_commands import CommandServer
from wgan_cli.commands.resume import state_to_resume
from wgan_cli.commands.train import run
from wgan_cli.run_folder import RunFolder
from wgan_cli.training.checkpoint import load_checkpoint, save_checkpoint
from wgan_cli.training.trainer import Trainer

# The others take longer than the training.
TINY = [*TINY, "metrics=[wasserstein/exact]"]
FEW = [word for word in TINY if not word.startswith("steps")]
# Two critic updates of 500 a step: an epoch is 1,438 digits, so step 2 ends in the second one.
MID_EPOCH = [*FEW, "batch_size=500"]

OWN_MODULE = """
import math
import pathlib

from torch import nn

pathlib.Path("imported").write_text("")


class Generator(nn.Module):
    def __init__(self, latent_dim, sample_shape):
        super().__init__()
        self.shape = tuple(sample_shape)
        self.linear = nn.Linear(latent_dim, math.prod(sample_shape))

    def forward(self, latent):
        return self.linear(latent).unflatten(1, self.shape)
"""


class SmallMnist:
    """Images of 16x16: the smallest that a critic with BatchNorm has a place for it in."""

    def __init__(self, root: str, train: bool, download: bool) -> None:
        rng = torch.Generator().manual_seed(int(train))
        self.data = torch.randint(0, 256, (96 if train else 48, 16, 16), generator=rng).byte()
        self.targets = torch.arange(len(self.data)) % 10


@pytest.fixture
def own_module(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (here / "modules").mkdir()
    (here / "modules" / "own_resumed.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(str(here / "modules"))
    sys.modules.pop("own_resumed", None)
    yield
    sys.modules.pop("own_resumed", None)


def assert_resumed_equals_uninterrupted(here: Path, words: list[str], steps: int) -> None:
    whole, parts = here / "whole", here / "parts"
    assert run([*words, f"steps={2 * steps}", f"hydra.run.dir={whole}"]) == 0
    assert run([*words, f"steps={steps}", f"hydra.run.dir={parts}"]) == 0
    assert run([f"resume={parts}", f"steps={2 * steps}"]) == 0
    assert status_of(parts)["state"] == "finished"
    assert status_of(parts)["step"] == 2 * steps
    assert_same_state(whole, parts)
    assert state_of(parts)["step"] == 2 * steps


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size)
        for path in [folder, *folder.rglob("*")]
    }


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(["decay.kind=none"], marks=pytest.mark.exhaustive),
        ["decay.kind=linear", "decay.steps=4", "ema=0.5"],
        pytest.param(["decay.kind=cosine", "decay.steps=6"], marks=pytest.mark.exhaustive),
        pytest.param(["ema=0.5", "decay.kind=none"], marks=pytest.mark.exhaustive),
        ["dataset=gaussians_ring", "eval_samples=64", "decay.kind=none"],
        pytest.param(["constraint=none", "decay.kind=none"], marks=pytest.mark.exhaustive),
        ["critic_warmup.steps=1", "critic_warmup.n_critic=3", "critic_warmup.every=3"],
    ],
    ids=" ".join,
)
def test_a_resumed_run_equals_an_uninterrupted_one_mid_epoch(more: list[str], here: Path) -> None:
    if not any(word.startswith("decay") for word in more):
        more = [*more, "decay.kind=none"]
    assert_resumed_equals_uninterrupted(here, [*MID_EPOCH, *more], steps=2)


@pytest.mark.parametrize(
    ("loss", "optimizer"),
    exhaustive_beyond(
        [("hinge", "adam")],
        itertools.product(["wasserstein", "hinge", "gan"], ["rmsprop", "adam", "sgd"]),
    ),
)
def test_convolutions_with_batch_norm_resume_under_each_loss_and_optimizer(
    loss: str, optimizer: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST", SmallMnist)
    words = [
        *FEW,
        "dataset=mnist",
        "model=dcgan",
        "model.generator.norm=batch",
        "model.critic.norm=batch",
        f"loss={loss}",
        f"optimizer={optimizer}",
        "decay.kind=linear",
        "decay.steps=4",
        "ema=0.9",
    ]
    assert_resumed_equals_uninterrupted(here, words, steps=2)
    names = state_of(here / "parts")
    for network in ("generator", "critic"):
        assert any("running_mean" in name for name in names[network])


def test_optimizers_with_momentum_resume(here: Path) -> None:
    words = [*FEW, "optimizer=sgd", "optimizer.momentum=0.9", "decay.kind=none"]
    assert_resumed_equals_uninterrupted(here, words, steps=2)


def test_decay_runs_over_the_steps_of_the_first_start(here: Path) -> None:
    assert run([*FEW, "decay.kind=linear", "steps=2", "hydra.run.dir=first"]) == 0
    assert run(["resume=first", "steps=4"]) == 0
    assert yaml.safe_load((here / "first" / "config.yaml").read_text())["decay"]["steps"] == 2


def test_a_resumed_run_keeps_its_cadence_and_logs_each_step_once(here: Path) -> None:
    words = [*FEW, "log_every=2", "sample_every=3", "checkpoint_every=2", "eval_every=2"]
    assert run([*words, "steps=6", "hydra.run.dir=first"]) == 0
    folder = here / "first"
    whole = metrics_of(folder)
    # As after a kill between the checkpoints of steps 4 and 6.
    checkpoints_of(folder)[-1].unlink()
    assert checkpoints_of(folder)[-1].name == "step_00000004.pt"
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "critic/wass')
    assert run(["resume=first"]) == 0
    lines = metrics_of(folder)
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line, before in zip(lines, whole, strict=True):
        assert line["critic/wasserstein"] == before["critic/wasserstein"]
        assert line["wasserstein/exact"] == before["wasserstein/exact"]
    everything = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
    events = EventAccumulator(str(folder / "tensorboard"), everything).Reload()
    for tag in events.Tags()["scalars"]:
        curve = events.Scalars(tag)
        assert [event.step for event in curve] == [line["step"] for line in lines if tag in line]
        if not tag.startswith("throughput"):
            values = [line[tag] for line in lines]
            assert [event.value for event in curve] == pytest.approx(values, rel=1e-6)
    assert [event.step for event in events.Images("samples/fake")] == [0, 3, 6]
    assert len(events.Images("samples/real")) == 1
    for tag in events.Tags()["histograms"]:
        assert [event.step for event in events.Histograms(tag)] == [3, 6]
    assert len(events.Tensors("config/text_summary")) == 1


def test_resuming_records_what_was_typed_each_time(here: Path) -> None:
    assert run([*TINY, "hydra.run.dir=first"]) == 0
    assert run(["resume=first", "steps=4", "log_every=1"]) == 0
    overrides = yaml.safe_load((here / "first" / "overrides.yaml").read_text())
    typed = [word for word in overrides if not word.startswith("hydra")]
    assert typed == [*TINY, "steps=4", "log_every=1"]
    config = yaml.safe_load((here / "first" / "config.yaml").read_text())
    assert (config["steps"], config["log_every"]) == (4, 1)
    assert [line["step"] for line in metrics_of(here / "first")] == [2, 3, 4]


def test_a_run_that_is_resumed_keeps_its_start_and_adds_up_its_seconds(here: Path) -> None:
    assert run([*TINY, "hydra.run.dir=first"]) == 0
    before = status_of(here / "first")
    assert run(["resume=first", "steps=4"]) == 0
    after = status_of(here / "first")
    assert after["started"] == before["started"]
    assert after["seconds"] > before["seconds"]


def test_resume_auto_starts_fresh_and_goes_on_the_next_time(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FEW, "hydra.run.dir=mine", "resume=auto", "decay.kind=none"]
    assert run([*words, "steps=2"]) == 0
    assert [path.name for path in checkpoints_of(here / "mine")] == ["step_00000002.pt"]
    assert run([*words, "steps=4"]) == 0
    assert "step_00000002.pt" in capsys.readouterr().err
    assert state_of(here / "mine")["step"] == 4
    assert run([*FEW, "decay.kind=none", "steps=4", "hydra.run.dir=whole"]) == 0
    assert_same_state(here / "whole", here / "mine")


@pytest.mark.parametrize("words", [["resume=first"], ["resume=first", "steps=1"]])
def test_a_finished_run_has_nothing_to_do_and_nothing_is_written(
    words: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*TINY, "hydra.run.dir=first"]) == 0
    before = snapshot(here)
    capsys.readouterr()
    assert run(words) == 0
    assert "2 steps already" in capsys.readouterr().err
    assert snapshot(here) == before


def test_resume_auto_of_a_finished_run_writes_nothing(here: Path) -> None:
    words = [*TINY, "hydra.run.dir=first", "resume=auto"]
    assert run(words) == 0
    before = snapshot(here)
    assert run(words) == 0
    assert snapshot(here) == before


@pytest.mark.parametrize(
    ("word", "difference"),
    [
        ("loss=hinge", "loss.name wasserstein → hinge"),
        ("seed=7", "seed 0 → 7"),
        ("batch_size=8", "batch_size 16 → 8"),
        ("model.critic.width=9", "model.critic.width 8 → 9"),
        ("n_critic=3", "n_critic 2 → 3"),
    ],
)
def test_resuming_with_another_setting_is_refused_with_a_diff(
    word: str, difference: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*TINY, "hydra.run.dir=first"]) == 0
    before = snapshot(here)
    capsys.readouterr()
    assert run(["resume=first", "steps=4", word]) == 2
    stderr = capsys.readouterr().err
    assert difference in stderr
    assert "Traceback" not in stderr
    assert len(stderr.splitlines()) == 1
    assert snapshot(here) == before


def test_cadence_and_metrics_may_differ(here: Path) -> None:
    assert run([*TINY, "hydra.run.dir=first"]) == 0
    words = ["steps=4", "sample_every=1", "checkpoint_every=1", "metrics=[wasserstein/exact]"]
    assert run(["resume=first", *words]) == 0
    last = metrics_of(here / "first")[-1]
    assert "wasserstein/exact" in last
    assert "critic/lipschitz" not in last


def test_the_last_words_show_nothing_that_an_earlier_start_measured(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*TINY, "hydra.run.dir=first"]) == 0
    assert "exact W1" in capsys.readouterr().out
    assert run(["resume=first", "steps=4", "metrics=[critic/lipschitz]"]) == 0
    words = capsys.readouterr().out
    assert "Finished 4 steps" in words
    assert "exact W1" not in words


def test_the_best_checkpoint_is_the_best_at_one_number_of_samples(here: Path) -> None:
    words = [*FEW, "steps=1", "eval_every=1", "checkpoint_every=1", "metrics=[wasserstein/exact]"]
    assert run([*words, "eval_samples=4", "hydra.run.dir=first"]) == 0
    assert run(["resume=first", "steps=5", "eval_samples=100"]) == 0
    distances = {int(p["step"]): p["wasserstein/exact"] for p in metrics_of(here / "first")}
    # Step 1's, of 4 samples, is lower still and does not count.
    assert distances[1] < min(distances[step] for step in (2, 3, 4, 5))
    comparable = {step: distance for step, distance in distances.items() if step > 1}
    kept = {int(path.stem[5:]) for path in (here / "first" / "checkpoints").glob("step_*.pt")}
    assert kept == {4, 5, min(comparable, key=lambda step: comparable[step])}


def test_an_older_checkpoint_forks_into_a_new_folder(here: Path) -> None:
    words = [*FEW, "decay.kind=none", "log_every=1"]
    assert run([*words, "steps=4", "checkpoint_every=2", "hydra.run.dir=first"]) == 0
    before = snapshot(here / "first")
    fork = ["resume=first/checkpoints/step_00000002.pt", "hydra.run.dir=fork"]
    assert run([*fork, "steps=6"]) == 0
    assert snapshot(here / "first") == before
    assert [line["step"] for line in metrics_of(here / "fork")] == [3, 4, 5, 6]
    whole = ["steps=6", "checkpoint_every=2", "hydra.run.dir=whole"]
    assert run([*words, *whole]) == 0
    assert_same_state(here / "whole", here / "fork")


def test_a_fork_that_names_no_folder_gets_a_new_one(here: Path) -> None:
    assert run([*TINY, "checkpoint_every=1", "hydra.run.dir=first"]) == 0
    before = snapshot(here / "first")
    assert run(["resume=first/checkpoints/step_00000001.pt", "steps=3"]) == 0
    assert snapshot(here / "first") == before
    (status,) = (here / "outputs").rglob("status.json")
    assert status_of(status.parent)["step"] == 3


@pytest.mark.parametrize("harm", exhaustive_beyond(["cut"], ["flipped", "cut", "empty"]))
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    harm: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FEW, "decay.kind=none", "checkpoint_every=2", "log_every=2"]
    assert run([*words, "steps=4", "hydra.run.dir=first"]) == 0
    newest = checkpoints_of(here / "first")[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    kept = {"flipped": len(data), "cut": len(data) - 100, "empty": 0}[harm]
    newest.write_bytes(data[:kept])
    capsys.readouterr()
    assert run(["resume=first", "steps=6"]) == 0
    stderr = capsys.readouterr().err
    assert "step_00000004.pt is" in stderr
    assert "step_00000002.pt" in stderr
    assert "Traceback" not in stderr
    assert [line["step"] for line in metrics_of(here / "first")] == [2, 4, 6]
    assert run([*words, "steps=6", "hydra.run.dir=whole"]) == 0
    assert_same_state(here / "whole", here / "first")


def test_a_run_whose_checkpoints_are_all_damaged_is_exit_4(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*TINY, "hydra.run.dir=first"]) == 0
    for path in checkpoints_of(here / "first"):
        path.write_bytes(b"not a checkpoint")
    before = snapshot(here)
    assert run(["resume=first", "steps=4"]) == 4
    assert "Traceback" not in capsys.readouterr().err
    assert snapshot(here) == before


def test_an_untrusted_class_in_a_saved_config_is_refused(
    here: Path, own_module: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*TINY, "hydra.run.dir=first"]) == 0
    saved = here / "first" / "config.yaml"
    good = saved.read_text()
    for target in ("own_resumed.Generator", "torch.os.system", "os.system", "torch.nn.init.os"):
        saved.write_text(good.replace("wgan_cli.models.mlp.Generator", target))
        before = snapshot(here)
        for words in (
            ["resume=first", "steps=4"],
            ["--config-dir", "first", "--config-name", "config"],
        ):
            capsys.readouterr()
            assert run(words) == 4
            stderr = capsys.readouterr().err
            assert target in stderr
            assert "--trust" in stderr
            assert "Traceback" not in stderr
        assert snapshot(here) == before
    assert not (here / "imported").exists()


def test_a_users_own_class_resumes_where_it_is_trusted(here: Path, own_module: None) -> None:
    own = [
        "model.generator._target_=own_resumed.Generator",
        "~model.generator.width",
        "~model.generator.depth",
    ]
    words = [word for word in TINY if not word.startswith("model.generator")]
    assert run([*words, *own, "hydra.run.dir=first"]) == 0
    assert run(["resume=first", "steps=4"]) == 4
    assert run(["resume=first", "steps=4", "--trust", "own_resum"]) == 4
    assert run(["resume=first", "steps=4", "--trust", "own_resumed"]) == 0
    assert status_of(here / "first")["step"] == 4


def stopped_by(
    number: int, folder: Path, server: CommandServer
) -> subprocess.CompletedProcess[str]:
    """A long run in `folder`, sent a signal once its status says that it runs."""
    words = [*FEW, "steps=1000000", "log_every=1", "decay.kind=none", f"hydra.run.dir={folder}"]
    process = server.start("wgan-train", words, folder.parent)
    try:
        until = time.monotonic() + 120
        while not ((folder / "status.json").exists() and status_of(folder)["step"] >= 2):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        assert status_of(folder)["state"] == "running"
        assert status_of(folder)["exit_code"] is None
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.mark.parametrize(
    ("number", "code", "state"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 75, "preempted")],
)
def test_a_stopped_run_saves_itself_says_how_to_go_on_and_goes_on(
    number: int, code: int, state: str, command_server: CommandServer, here: Path
) -> None:
    folder = here / "long"
    answer = stopped_by(number, folder, command_server)
    assert answer.returncode == code, answer.stderr
    assert "Traceback" not in answer.stderr
    assert "wgan-train resume=long" in answer.stderr
    status = status_of(folder)
    assert (status["state"], status["exit_code"]) == (state, code)
    done = status["step"]
    assert checkpoints_of(folder)[-1].name == f"step_{done:08d}.pt"

    assert run(["resume=long", f"steps={done + 2}"]) == 0
    assert status_of(folder)["state"] == "finished"
    steps = [line["step"] for line in metrics_of(folder)]
    assert steps == list(range(1, done + 3))
    assert all(math.isfinite(line["critic/wasserstein"]) for line in metrics_of(folder))
    whole = [*FEW, "decay.kind=none", "log_every=1", f"steps={done + 2}", "hydra.run.dir=whole"]
    assert run(whole) == 0
    assert_same_state(here / "whole", folder)


def test_a_run_killed_after_its_last_checkpoint_is_finished_like_any_other(here: Path) -> None:
    assert run([*TINY, "hydra.run.dir=first"]) == 0
    folder = here / "first"
    # As SIGKILL leaves it between the checkpoint and the end.
    folder.joinpath("status.json").write_text(
        json.dumps({**status_of(folder), "state": "running", "exit_code": None})
    )
    for events in folder.joinpath("tensorboard").iterdir():
        events.unlink()
    assert run(["resume=first"]) == 0
    assert status_of(folder)["state"] == "finished"
    shown = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert shown.PluginTagToContent("hparams")["_hparams_/session_start_info"]


@pytest.mark.parametrize(
    "text", exhaustive_beyond(["["], ["[", "- a: b\n  - c", "3", "", "- ${oc.env:HOME}"])
)
def test_a_broken_record_of_what_was_typed_stops_nothing(text: str, here: Path) -> None:
    assert run([*TINY, "hydra.run.dir=first"]) == 0
    (here / "first" / "overrides.yaml").write_text(text)
    assert run(["resume=first", "steps=3"]) == 0
    assert status_of(here / "first")["step"] == 3


@pytest.mark.parametrize("why", ["of a later version", "not readable now"])
def test_a_newer_checkpoint_that_may_be_whole_is_not_passed_over(
    why: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*TINY, "checkpoint_every=1", "hydra.run.dir=first"]) == 0
    newest = checkpoints_of(here / "first")[-1]
    if why == "of a later version":
        save_checkpoint(newest, {**load_checkpoint(newest), "format": 2})
    else:
        read = Path.read_bytes

        def stale(self: Path) -> bytes:
            if self.name == newest.name:
                raise OSError(116, "Stale file handle", str(self))
            return read(self)

        monkeypatch.setattr(Path, "read_bytes", stale)
    capsys.readouterr()
    assert run(["resume=first", "steps=3"]) == 4
    assert newest.name in capsys.readouterr().err
    assert newest.exists()


def test_curves_go_on_where_a_clock_was_set_back(here: Path) -> None:
    assert run([*TINY, "log_every=1", "hydra.run.dir=first"]) == 0
    (events,) = (here / "first" / "tensorboard").iterdir()
    _, _, _, rest = events.name.split(".", 3)
    events.rename(events.with_name(f"events.out.tfevents.9{rest}"))
    assert run(["resume=first", "steps=4"]) == 0
    shown = EventAccumulator(str(here / "first" / "tensorboard")).Reload()
    assert [event.step for event in shown.Scalars("critic/wasserstein")] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["resume", "hydra.run.dir"])
def test_a_name_too_long_for_a_file_is_answered(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*TINY, f"{name}={'n' * 300}"]) in (4, 7)
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    assert len(stderr.splitlines()) == 1


def test_a_status_that_somebody_spoiled_stops_nothing(here: Path) -> None:
    assert run([*TINY, "hydra.run.dir=first"]) == 0
    odd = {"state": "running", "seconds": "x", "started": 5, "evaluation_seconds": [1], "final": 3}
    (here / "first" / "status.json").write_text(json.dumps(odd))
    assert run(["resume=first", "steps=3"]) == 0
    assert status_of(here / "first")["state"] == "finished"


def test_a_run_that_lost_its_checkpoints_says_that_it_begins_anew(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "hydra.run.dir=first", "resume=auto"]
    assert run(words) == 0
    assert "begins anew" not in capsys.readouterr().err
    for path in checkpoints_of(here / "first"):
        path.unlink()
    assert run(words) == 0
    assert "first holds no checkpoint: it begins anew." in capsys.readouterr().err


def test_the_checkpoints_tensors_do_not_stay_in_memory(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run([*FEW, "steps=1", "hydra.run.dir=run"]) == 0
    loaded, left = [], []

    def noting(folder: RunFolder, resume: str | None) -> dict[str, Any] | None:
        state = state_to_resume(folder, resume)
        assert state is not None
        loaded.extend(weakref.ref(tensor) for tensor in state["critic"].values())
        return state

    def step(trainer: Trainer) -> None:
        gc.collect()
        left.extend(reference for reference in loaded if reference() is not None)
        train_step(trainer)

    train_step = Trainer.train_step
    monkeypatch.setattr("wgan_cli.commands.run.state_to_resume", noting)
    monkeypatch.setattr(Trainer, "train_step", step)
    assert run(["resume=run", "steps=2"]) == 0
    assert loaded
    assert not left
