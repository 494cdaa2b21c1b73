"""`wgan-train` in several processes: what it leaves, and how it ends where one of them does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, assert_same_curves, assert_same_state, metrics_of, state_of, status_of
from several_ranks import commands

from wgan_cli.commands.train import run
from wgan_cli.data.feeds import Batch, ResidentFeed
from wgan_cli.errors import ConfigError
from wgan_cli.evaluation.evaluation import Evaluation, EvaluationResult
from wgan_cli.run_folder import RunFolder
from wgan_cli.training.updates import Updates
from wgan_cli.waiting.policy import POLICY

WORDS = [
    *(word for word in TINY if not word.startswith(("steps", "log_every"))),
    "steps=6",
    "log_every=2",
    "checkpoint_every=2",
    "eval_every=3",
    "metrics=[wasserstein/exact]",
    "precision=fp32",
    "decay.kind=none",
    "model.generator.depth=1",
    "model.critic.depth=1",
]


def on_rank_1(nth: int, act: Callable[[], Any]) -> Callable[[int], None]:
    """`act` before rank 1's nth critic update."""

    def arrange(rank: int) -> None:
        update, calls = Updates.critic_update, []

        def acting(self: Updates, *arguments: Any) -> torch.Tensor:
            calls.append(1)
            if len(calls) == nth:
                act()
            return update(self, *arguments)

        if rank == 1:
            Updates.critic_update = acting  # type: ignore[method-assign]

    return arrange


def to_itself(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks, uninterrupted."""
    folder = tmp_path_factory.mktemp("whole")
    before = Path.cwd()
    os.chdir(folder)
    try:
        processes = commands(2, folder, [*WORDS, "hydra.run.dir=run"])
        assert processes.codes() == [0, 0], processes.said()
    finally:
        os.chdir(before)
    return folder


def test_two_ranks_leave_what_one_process_leaves(whole: Path, here: Path) -> None:
    assert run([*WORDS, "hydra.run.dir=one"]) == 0

    def files(run: Path) -> set[str]:
        found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
        return {name for name in found if "tfevents" not in name}

    assert files(whole / "run") == files(here / "one")
    for one, two in zip(metrics_of(here / "one"), metrics_of(whole / "run"), strict=True):
        assert one.keys() == two.keys()
        for tag in (tag for tag in one if not tag.startswith("throughput")):
            assert two[tag] == pytest.approx(one[tag], rel=1e-3, abs=1e-5), tag
    assert state_of(whole / "run")["world"] == 2
    assert json.loads((whole / "run" / "environment.json").read_text())["world"] == 2
    leader, follower = ((whole / f"out_{rank}.txt").read_text() for rank in range(2))
    assert "2 processes, each with 8 samples of every batch" in leader
    assert leader.count("Finished 6 steps") == 1
    assert follower == ""


@pytest.mark.exhaustive
def test_four_ranks_train(here: Path) -> None:
    words = [word for word in WORDS if not word.endswith("depth=1")]
    words += ["model=dcgan", "conditional=true", "hydra.run.dir=run"]
    processes = commands(4, here, words)
    assert processes.codes() == [0] * 4, processes.said()
    assert status_of(here / "run")["state"] == "finished"


@pytest.mark.parametrize(
    ("number", "state", "code"),
    [
        (signal.SIGTERM, "preempted", 75),
        pytest.param(signal.SIGINT, "interrupted", 130, marks=pytest.mark.exhaustive),
    ],
)
def test_a_signal_at_any_rank_stops_all_at_one_step_and_the_run_goes_on_bit_for_bit(
    number: int, state: str, code: int, whole: Path, here: Path
) -> None:
    words = [*WORDS, "hydra.run.dir=cut"]
    processes = commands(2, here, words, on_rank_1(5, to_itself(number)))
    assert processes.codes() == [code, code], processes.said()
    status = status_of(here / "cut")
    assert (status["state"], status["exit_code"], status["step"]) == (state, code, 3)
    assert "--nproc-per-node=2 -m wgan_cli resume=cut" in processes.said()[0]
    again = commands(2, here, ["resume=cut"])
    assert again.codes() == [0, 0], again.said()
    assert_same_state(whole / "run", here / "cut")
    assert_same_curves(whole / "run", here / "cut")


@pytest.mark.exhaustive
def test_a_signal_in_an_evaluation_stops_all_and_the_run_goes_on_bit_for_bit(
    whole: Path, here: Path
) -> None:
    def arrange(rank: int) -> None:
        evaluate = Evaluation.__call__

        def signalled(self: Evaluation, *networks: Any) -> EvaluationResult:
            to_itself(signal.SIGTERM)()
            return evaluate(self, *networks)

        if rank == 0:
            Evaluation.__call__ = signalled  # type: ignore[method-assign]

    processes = commands(2, here, [*WORDS, "hydra.run.dir=cut"], arrange)
    assert processes.codes() == [75, 75], processes.said()
    state = state_of(here / "cut")
    assert (state["step"], state["unmeasured"]) == (3, True)
    again = commands(2, here, ["resume=cut"])
    assert again.codes() == [0, 0], again.said()
    assert_same_state(whole / "run", here / "cut")
    assert_same_curves(whole / "run", here / "cut")


def test_another_number_of_processes_must_divide_the_batch_of_a_run(whole: Path) -> None:
    processes = commands(3, whole / "three", [f"resume={whole / 'run'}"])
    assert processes.codes() == [2, 2, 2]
    assert processes.said()[0].endswith("which is 3: go on in 1 or 2 or 4.\n")


@pytest.mark.exhaustive
def test_networks_with_batch_norm_go_on_bit_for_bit_where_a_rank_was_killed(here: Path) -> None:
    words = [word for word in WORDS if not word.startswith(("model", "steps", "checkpoint"))]
    words += ["model=dcgan", "model.critic.norm=batch", "steps=2", "ema=0.5"]
    words += ["checkpoint_every=2", "model.generator.width=2", "model.critic.width=2"]
    whole = commands(2, here, [*words, "hydra.run.dir=whole"])
    assert whole.codes() == [0, 0], whole.said()
    commands(
        2, here, [*words, "hydra.run.dir=cut"], on_rank_1(2, to_itself(signal.SIGKILL))
    ).codes()
    assert state_of(here / "cut")["step"] < 2
    again = commands(2, here, ["resume=cut"])
    assert again.codes() == [0, 0], again.said()
    assert_same_state(here / "whole", here / "cut")


@pytest.mark.exhaustive
def test_a_killed_rank_ends_all_soon_and_nothing_is_lost(whole: Path, here: Path) -> None:
    words = [*WORDS, "hydra.run.dir=cut"]
    started = time.monotonic()
    processes = commands(2, here, words, on_rank_1(6, to_itself(signal.SIGKILL)))
    assert processes.codes() == [1, -signal.SIGKILL], processes.said()
    assert time.monotonic() - started < 30
    status = status_of(here / "cut")
    assert (status["state"], status["exit_code"], status["step"]) == ("failed", 1, 2)
    assert status["message"].startswith("Rank 1 was lost: ")
    assert state_of(here / "cut")["inner"] == 1
    assert "resume=cut" in processes.said()[0]
    again = commands(2, here, ["resume=cut"])
    assert again.codes() == [0, 0], again.said()
    assert_same_state(whole / "run", here / "cut")


def test_a_killed_rank_0_ends_all_soon(here: Path) -> None:
    def arrange(rank: int) -> None:
        on_rank_1(6, to_itself(signal.SIGKILL))(1 - rank)

    processes = commands(2, here, [*WORDS, "hydra.run.dir=cut"], arrange)
    started = time.monotonic()
    leader, follower = processes.codes()
    assert time.monotonic() - started < 30
    assert (leader, follower) == (-signal.SIGKILL, 1), processes.said()
    # One process alone goes on, and says what that means.
    assert run(["resume=cut"]) == 0
    assert (
        "Trained in 2 processes so far, the run goes on in 1"
        in (here / "cut" / "train.log").read_text()
    )


def with_nan_on_rank_1(rank: int) -> None:
    batch, calls = ResidentFeed.batch, []

    def spoiling(self: ResidentFeed, update: int) -> Batch:
        samples, labels = batch(self, update)
        if update == 9 and not calls:
            calls.append(1)
            samples = samples.clone()
            samples[-1] = torch.nan
        return Batch(samples, labels)

    if rank == 1:
        ResidentFeed.batch = spoiling  # type: ignore[method-assign]


@pytest.mark.exhaustive
def test_a_nan_at_one_rank_is_kept_out_at_all(whole: Path, here: Path) -> None:
    processes = commands(2, here, [*WORDS, "hydra.run.dir=cut"], with_nan_on_rank_1)
    assert processes.codes() == [5, 5], processes.said()
    status = status_of(here / "cut")
    assert (status["state"], status["step"]) == ("diverged", 5)
    assert "became NaN in step 5" in status["message"]
    # Here the NaN does not come again.
    again = commands(2, here, ["resume=cut"])
    assert again.codes() == [0, 0], again.said()
    assert_same_state(whole / "run", here / "cut")


def test_all_ranks_go_back_together(here: Path) -> None:
    words = [*WORDS, "on_divergence=rollback", "hydra.run.dir=run"]
    processes = commands(2, here, words, with_nan_on_rank_1)
    assert processes.codes() == [0, 0], processes.said()
    (back,) = status_of(here / "run")["returns"]
    assert (back["at"], back["to"]) == (5, 4)
    # Ranks whose weights parted would not come to what one process comes to.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResidentFeed, "batch", ResidentFeed.batch)
        with_nan_on_rank_1(1)
        assert run([*WORDS, "on_divergence=rollback", "hydra.run.dir=one"]) == 0
    last, expected = metrics_of(here / "run")[-1], metrics_of(here / "one")[-1]
    assert last["wasserstein/exact"] == pytest.approx(expected["wasserstein/exact"], rel=1e-5)


def fail(error: Exception) -> Callable[..., None]:
    def act(*arguments: Any, **settings: Any) -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError("a defect"), 1, "Rank 1: RuntimeError: a defect"),
        (MemoryError(), 6, "Rank 1: Out of memory at batch_size=16"),
    ],
)
def test_an_error_at_another_rank_stands_in_the_status(
    error: Exception, code: int, said: str, here: Path
) -> None:
    words = [*WORDS, "hydra.run.dir=run"]
    processes = commands(2, here, words, on_rank_1(6, fail(error)))
    assert processes.codes() == [code, code], processes.said()
    status = status_of(here / "run")
    assert (status["state"], status["exit_code"]) == ("failed", code)
    assert status["message"].startswith(said)
    leader, follower = processes.said()
    assert said in leader
    assert "Traceback" not in leader
    assert ("a defect" in follower) == (code == 1)


def test_an_error_at_rank_0_amid_a_step_ends_all(here: Path) -> None:
    def arrange(rank: int) -> None:
        on_rank_1(6, fail(MemoryError()))(1 - rank)

    processes = commands(2, here, [*WORDS, "hydra.run.dir=run"], arrange)
    leader, follower = processes.codes()
    assert leader == 6, processes.said()
    # Here rank 0 keeps the store, and may be gone before the other notices.
    assert follower in (1, 6), processes.said()
    status = status_of(here / "run")
    assert (status["state"], status["exit_code"]) == ("failed", 6)
    assert status["message"].startswith("Out of memory at batch_size=16")
    assert "Traceback" not in "".join(processes.said())
    assert "terminate called" not in "".join(processes.said())


def test_a_rank_that_fails_before_it_meets_the_others_ends_all(here: Path) -> None:
    def arrange(rank: int) -> None:
        if rank == 1:
            from wgan_cli import machine

            machine.choose_machine = fail(ConfigError("There is no such device."))  # type: ignore

    processes = commands(3, here, [*WORDS, "batch_size=18", "hydra.run.dir=run"], arrange)
    assert processes.codes() == [2, 2, 2], processes.said()
    leader, *followers = processes.said()
    assert leader == "wgan-train: Rank 1: There is no such device.\n"
    assert followers == ["", ""]
    assert not (here / "run").exists()


@pytest.mark.exhaustive
def test_a_rank_that_fails_while_it_builds_is_told_of_in_the_status_of_a_run(here: Path) -> None:
    def arrange(rank: int) -> None:
        if rank == 1:
            from wgan_cli import build

            build.build_trainer = fail(MemoryError())  # type: ignore[assignment]

    def begin(*words: str) -> str:
        processes = commands(2, here, words, arrange)
        assert processes.codes() == [6, 6], processes.said()
        leader, follower = processes.said()
        assert leader.count("Rank 1: Out of memory at batch_size=16") == 1
        assert follower == ""
        return leader

    begin(*WORDS, "hydra.run.dir=run")
    assert not (here / "run").exists()
    assert run([*WORDS, "steps=2", "hydra.run.dir=run"]) == 0
    begin("resume=run", "steps=6")
    status = status_of(here / "run")
    assert (status["state"], status["exit_code"], status["step"]) == ("failed", 6, 2)
    assert status["message"].startswith("Rank 1: Out of memory at batch_size=16")


@pytest.mark.parametrize("which", [0, 1])
def test_data_that_one_rank_cannot_read_end_the_run_before_it_begins(
    which: int, here: Path
) -> None:
    def arrange(rank: int) -> None:
        if rank == which:
            from wgan_cli import build
            from wgan_cli.errors import DataError

            def nothing(config: Any) -> Any:
                raise DataError("There are no digits here.")

            build.build_dataset = nothing

    processes = commands(2, here, [*WORDS, "hydra.run.dir=run"], arrange)
    assert processes.codes() == [3, 3], processes.said()
    leader, follower = processes.said()
    rank = "Rank 1: " if which else ""
    assert leader.endswith(f"wgan-train: {rank}There are no digits here.\n")
    assert follower == ""
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["batch_size=15"], 2, "type batch_size=14 or batch_size=16."),
        (["-m", "seed=0,1"], 2, "-m starts many runs"),
        (["device=cuda:1"], 2, "device=cuda:1 is one GPU"),
        (["--version"], 0, "wgan-train"),
    ],
)
def test_what_is_answered_without_training_is_said_once(
    words: list[str], code: int, said: str, here: Path
) -> None:
    processes = commands(2, here, [*WORDS, *words])
    assert processes.codes() == [code, code]
    leader, follower = processes.said()
    assert said in leader
    assert leader.count("\n") == 1
    assert follower == ""
    assert {path.name for path in here.iterdir()} == {"out_0.txt", "out_1.txt"}


@pytest.mark.exhaustive
def test_torchrun(whole: Path, here: Path) -> None:
    """A request to end, a kill, and what torchrun itself does about both."""

    def start(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
        log = (here / "log.txt").open("w")
        return subprocess.Popen([*command, "-m", "wgan_cli", *words], stdout=log, stderr=log)

    def training(folder: Path, after: int) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            found = RunFolder(folder).read_metrics()
            if found and found[-1]["step"] > after:
                return
            time.sleep(0.05)
        raise AssertionError((here / "log.txt").read_text())

    long = [word for word in WORDS if not word.startswith(("steps", "eval_every"))]
    process = start(*long, "steps=100000", "eval_every=100000", "hydra.run.dir=run")
    training(here / "run", 0)
    process.terminate()
    process.wait(timeout=30)
    status = status_of(here / "run")
    assert (status["state"], status["exit_code"]) == ("preempted", 75)
    assert state_of(here / "run")["step"] == status["step"]
    assert json.loads((here / "run" / "environment.json").read_text())["wait_policy"] == POLICY

    process = start("resume=run", "steps=100000")
    training(here / "run", status["step"])
    children = (
        Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
    )
    (follower,) = (
        int(child)
        for child in children
        if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{child}/environ").read_bytes()
    )
    os.kill(follower, signal.SIGKILL)
    killed = time.monotonic()
    process.wait(timeout=30)
    assert time.monotonic() - killed < 30
    status = status_of(here / "run")
    assert status["state"] == "failed"
    assert re.match("Rank 1 was lost", status["message"])
    assert state_of(here / "run")["step"] == status["step"]
