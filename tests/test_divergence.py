"""Runs that diverge: what they leave, and how they go back and on."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TINY, exhaustive_beyond, fast_curves_of, leaves, metrics_of, status_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wgan_cli.commands.train import run
from wgan_cli.run_folder import RunFolder
from wgan_cli.training.callbacks.checkpoints import Checkpoints
from wgan_cli.training.callbacks.protocol import Point
from wgan_cli.training.checkpoint import find_checkpoints, load_checkpoint, load_newest
from wgan_cli.training.trainer import Trainer

FEW = [word for word in TINY if not word.startswith("steps")]
WILD = [*FEW, "constraint=none", "optimizer=sgd", "steps=40", "checkpoint_every=2", "log_every=1"]
# Diverges at its 19th step in float32, and at half that rate.
LATE = [*WILD, "precision=fp32", "optimizer.lr=0.5", "rollback.lr_factor=0.3"]


def tensors(state: dict[str, Any]) -> list[torch.Tensor]:
    return [leaf for leaf in leaves(state).values() if isinstance(leaf, torch.Tensor)]


def newest(folder: Path) -> dict[str, Any]:
    state, _, warnings = load_newest(folder / "checkpoints")
    assert state is not None
    assert not warnings
    return state


def events_of(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "tensors": 0}).Reload()


@pytest.mark.parametrize(
    ("loss", "constraint", "optimizer"),
    exhaustive_beyond(
        [
            ("wasserstein", "none", "rmsprop"),
            ("hinge", "gradient_penalty", "adam"),
            ("gan", "none", "sgd"),
        ],
        itertools.product(
            ["wasserstein", "hinge", "gan"],
            ["none", "gradient_penalty"],
            ["rmsprop", "adam", "sgd"],
        ),
    ),
)
def test_whatever_diverges_leaves_finite_checkpoints_and_names_term_and_step(
    loss: str, constraint: str, optimizer: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"loss={loss}", f"constraint={constraint}", f"optimizer={optimizer}"]
    folder = here / "wild"
    rate = "optimizer.lr=1e5"
    code = run([*FEW, *words, rate, "steps=8", "checkpoint_every=1", "hydra.run.dir=wild"])
    assert code in (0, 5)
    for path in find_checkpoints(folder / "checkpoints"):
        assert all(bool(tensor.isfinite().all()) for tensor in tensors(load_checkpoint(path)))
    if code == 5:
        status, stderr = status_of(folder), capsys.readouterr().err
        assert status["state"] == "diverged"
        assert f"in step {status['step']}." in status["message"]
        assert status["message"] in stderr
        assert "Traceback" not in stderr
        assert len(find_checkpoints(folder / "checkpoints")) == min(2, status["step"] - 1)


def test_a_run_that_diverges_late_says_how_to_go_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*LATE, "hydra.run.dir=wild"]) == 5
    assert "wgan-train resume=wild on_divergence=rollback" in capsys.readouterr().err
    assert run(["resume=wild", "on_divergence=rollback"]) == 0
    status = status_of(here / "wild")
    assert status["state"] == "finished"
    assert status["returns"][0]["at"] == 19
    assert all(math.isfinite(line["critic/wasserstein"]) for line in metrics_of(here / "wild"))


def test_nothing_is_said_of_going_back_where_nothing_was_saved(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*WILD, "optimizer.lr=1e5", "hydra.run.dir=wild"]) == 5
    assert "resume=" not in capsys.readouterr().err
    assert not find_checkpoints(here / "wild" / "checkpoints")


def test_going_back_is_recorded_everywhere_and_no_step_is_twice(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*LATE, "on_divergence=rollback", "hydra.run.dir=back"]) == 0
    stderr = capsys.readouterr().err
    folder = here / "back"
    returns = status_of(folder)["returns"]
    assert [(entry["at"], entry["to"]) for entry in returns] == [(19, 18), (19, 16), (19, 18)]
    factors = [entry["lr_factor"] for entry in returns]
    assert factors == pytest.approx([0.3, 0.09, 0.027])
    assert newest(folder)["returns"] == returns
    log = (folder / "train.log").read_text()
    for entry in returns:
        assert "in step 19." in entry["reason"]
        assert f"{entry['reason']} Back to step {entry['to']}" in log
        assert f"{entry['reason']} Back to step {entry['to']}" in stderr
    assert [line["step"] for line in metrics_of(folder)] == list(range(1, 41))
    events = events_of(folder)
    for tag in ("critic/wasserstein", "generator/loss"):
        values = [line[tag] for line in metrics_of(folder)]
        assert [event.step for event in events.Scalars(tag)] == list(range(1, 41))
        assert [event.value for event in events.Scalars(tag)] == pytest.approx(values, rel=1e-6)
    assert events.Tensors("returns/text_summary")
    fast = fast_curves_of(folder, 40)
    if fast is not None:
        values = [line["critic/wasserstein"] for line in metrics_of(folder)]
        assert [step for step, _ in fast["critic/wasserstein"]] == list(range(1, 41))
        assert [v for _, v in fast["critic/wasserstein"]] == pytest.approx(values, rel=1e-6)
    rates = newest(folder)["critic_optimizer"]["param_groups"][0]["lr"]
    assert rates == pytest.approx(0.5 * 0.027)


def test_going_back_ends_after_the_allowed_times(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*LATE, "on_divergence=rollback", "rollback.times=2", "hydra.run.dir=back"]
    assert run(words) == 5
    assert "It went back 2 times already." in capsys.readouterr().err
    folder = here / "back"
    assert len(status_of(folder)["returns"]) == 2
    assert all(bool(tensor.isfinite().all()) for tensor in tensors(newest(folder)))
    # The count is the run's, not the process's.
    assert run(["resume=back"]) == 5
    assert len(status_of(folder)["returns"]) == 2
    assert run(["resume=back", "rollback.times=3"]) == 0


def test_before_its_first_checkpoint_a_run_goes_back_to_its_start(here: Path) -> None:
    words = [*WILD, "optimizer.lr=2", "checkpoint_every=100", "on_divergence=rollback"]
    assert run([*words, "rollback.lr_factor=0.01", "hydra.run.dir=back"]) == 0
    returns = status_of(here / "back")["returns"]
    assert [(entry["at"], entry["to"]) for entry in returns] == [(2, 0)]
    assert [line["step"] for line in metrics_of(here / "back")] == list(range(1, 41))
    # As if it had been started at that rate.
    rate = ["optimizer.lr=0.02", "hydra.run.dir=low"]
    assert run([*words, *rate]) == 0
    first, second = newest(here / "back"), newest(here / "low")
    for network in ("generator", "critic"):
        for name, weight in first[network].items():
            assert torch.equal(weight, second[network][name])


@pytest.mark.parametrize("kept", exhaustive_beyond([18], [16, 18, 24, 38]))
def test_a_run_that_went_back_resumes_as_if_it_had_not_stopped(kept: int, here: Path) -> None:
    words = [*LATE, "on_divergence=rollback", "rollback.times=9", "keep_every=2", "ema=0.5"]
    assert run([*words, "hydra.run.dir=whole"]) == 0
    shutil.copytree(here / "whole", here / "cut")
    for path in find_checkpoints(here / "cut" / "checkpoints"):
        if load_checkpoint(path)["step"] > kept:
            path.unlink()
    assert run(["resume=cut"]) == 0
    first, second = newest(here / "whole"), newest(here / "cut")
    assert first["returns"] == second["returns"]
    assert all(map(torch.equal, tensors(first), tensors(second)))
    assert [line["step"] for line in metrics_of(here / "cut")] == list(range(1, 41))


def test_a_run_that_does_not_diverge_is_not_changed_by_rollback(here: Path) -> None:
    words = [*FEW, "steps=3"]
    assert run([*words, "hydra.run.dir=stop"]) == 0
    assert run([*words, "on_divergence=rollback", "hydra.run.dir=back"]) == 0
    first, second = tensors(newest(here / "stop")), tensors(newest(here / "back"))
    assert all(map(torch.equal, first, second))
    assert status_of(here / "back")["returns"] == []


@pytest.mark.parametrize(
    "word", ["on_divergence=ignore", "rollback.times=0", "rollback.lr_factor=1", "rollback.x=1"]
)
def test_wrong_words_are_refused(word: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*TINY, word]) == 2
    assert word.partition("=")[0] in capsys.readouterr().err
    assert not list(here.iterdir())


def test_a_fork_goes_back_to_where_it_began(here: Path) -> None:
    assert run([*LATE, "keep_every=2", "hydra.run.dir=wild"]) == 5
    fork = ["resume=wild/checkpoints/step_00000014.pt", "hydra.run.dir=fork", "checkpoint_every=90"]
    fork += ["keep_every=null"]
    words = ["on_divergence=rollback", "rollback.lr_factor=0.01"]
    assert run([*fork, *words]) == 0
    returns = status_of(here / "fork")["returns"]
    assert [(entry["at"], entry["to"]) for entry in returns] == [(19, 14)]


class Killed(BaseException):
    """As SIGKILL would end it, but that callbacks hear of it."""


def test_a_kill_right_after_a_return_finds_it_noted_and_nothing_of_later_steps(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*LATE, "on_divergence=rollback", "keep_every=2", "rollback.times=9"]
    assert run([*words, "hydra.run.dir=whole"]) == 0
    roll_back, seen = Trainer.roll_back, []

    def killed(self: Trainer, error: Any) -> None:
        roll_back(self, error)
        seen.append(1)
        if len(seen) == 2:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "roll_back", killed)
        run([*words, "hydra.run.dir=cut"])
    left = newest(here / "cut")
    assert (left["step"], len(left["returns"])) == (16, 2)
    assert run(["resume=cut"]) == 0
    first, second = newest(here / "whole"), newest(here / "cut")
    assert first["returns"] == second["returns"]
    assert all(map(torch.equal, tensors(first), tensors(second)))


def test_the_best_of_what_is_left_is_kept_after_a_return(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(resuming=False)
    saving, trainer = Checkpoints(folder, {}), SimpleNamespace(step=0, state_dict=dict)

    def reach(step: int, distance: float) -> None:
        trainer.step = step
        values = {"wasserstein/exact": distance, "wasserstein/exact_n": 4.0}
        folder.append_metrics(step, values)
        saving.on_step(trainer, Point(step, save=True, scalars=values))  # type: ignore[arg-type]

    reach(1, 1.0)
    reach(2, 0.5)
    trainer.step = 1
    folder.forget_metrics_after(1)
    saving.on_rollback(trainer)  # type: ignore[arg-type]
    for step in (2, 3, 4):
        reach(step, 5.0 + step)
    kept = [path.name for path in find_checkpoints(folder.checkpoints)]
    assert kept == ["step_00000001.pt", "step_00000003.pt", "step_00000004.pt"]
    folder.release()
