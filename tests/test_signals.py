"""Ctrl-C, SIGTERM and a closed terminal, wherever they meet a command."""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import (
    TINY,
    assert_same_state,
    exhaustive_beyond,
    metrics_of,
    state_of,
    status_of,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wgan_cli.commands.composition import quoted
from wgan_cli.commands.train import run
from wgan_cli.errors import DataError, InterruptedRunError, PreemptedError
from wgan_cli.evaluation.evaluation import Evaluation
from wgan_cli.stop_signals import (
    PATIENCE,
    StopNow,
    StopSignals,
    Terminated,
    leaving_when_asked,
)
from wgan_cli.training.checkpoint import save_checkpoint
from wgan_cli.training.trainer import Trainer
from wgan_cli.training.updates import Updates

FEW = [word for word in TINY if not word.startswith("steps")]
OFTEN = [
    *FEW,
    "steps=6",
    "log_every=2",
    "eval_every=2",
    "checkpoint_every=3",
    "decay.kind=none",
    "metrics=[wasserstein/exact]",
]
OUTCOMES = {
    signal.SIGTERM: ("preempted", 75),
    signal.SIGHUP: ("preempted", 75),
    signal.SIGINT: ("interrupted", 130),
}
FOREVER = 30


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Also where the tests run under nohup, or behind a shell that has Ctrl-C ignored."""
    usual = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def interrupt_evaluation(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """A signal in the middle of the n-th evaluation, which would then take for ever."""

    def arrange(number: int, nth: int) -> None:
        evaluate, calls = Evaluation.__call__, []

        def interrupted(self: Evaluation, *networks: Any) -> Any:
            calls.append(1)
            found = evaluate(self, *networks)
            if len(calls) == nth:
                send(number)
                time.sleep(FOREVER)
                raise AssertionError("the evaluation went on")
            return found

        monkeypatch.setattr(Evaluation, "__call__", interrupted)

    return arrange


@pytest.mark.parametrize(
    ("nth", "number"),
    exhaustive_beyond(
        [(1, signal.SIGTERM), (2, signal.SIGINT)],
        itertools.product([1, 2, 3], OUTCOMES),
    ),
)
def test_a_long_evaluation_is_dropped_and_made_when_the_run_goes_on(
    number: int,
    nth: int,
    here: Path,
    interrupt_evaluation: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run([*OFTEN, "hydra.run.dir=whole"]) == 0
    state, code = OUTCOMES[signal.Signals(number)]
    with monkeypatch.context():
        interrupt_evaluation(number, nth)
        assert run([*OFTEN, "hydra.run.dir=cut"]) == code
        monkeypatch.undo()
    monkeypatch.chdir(here)
    stderr = capsys.readouterr().err
    assert "wgan-train resume=cut" in stderr
    assert "Traceback" not in stderr
    status = status_of(here / "cut")
    assert (status["state"], status["exit_code"], status["step"]) == (state, code, 2 * nth)
    assert [line["step"] for line in metrics_of(here / "cut")] == [2, 4, 6][: nth - 1]
    assert run(["resume=cut"]) == 0
    assert status_of(here / "cut")["state"] == "finished"
    assert_same_state(here / "whole", here / "cut")
    for one, other in zip(metrics_of(here / "whole"), metrics_of(here / "cut"), strict=True):
        untimed = [tag for tag in one if not tag.startswith("throughput")]
        assert [one[tag] for tag in untimed] == [other[tag] for tag in untimed]
    events = EventAccumulator(str(here / "cut" / "tensorboard")).Reload()
    for tag in ("critic/wasserstein", "wasserstein/exact"):
        assert [event.step for event in events.Scalars(tag)] == [2, 4, 6]


@pytest.mark.parametrize("number", OUTCOMES, ids=lambda number: signal.Signals(number).name)
def test_before_training_a_command_ends_at_once_and_leaves_nothing(
    number: int, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def endless(*arguments: Any) -> None:
        send(number)
        time.sleep(FOREVER)

    monkeypatch.setattr("wgan_cli.build.build_dataset", endless)
    assert run(TINY) == OUTCOMES[signal.Signals(number)][1]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("wgan-train: ")
    assert not list(here.iterdir())


@pytest.mark.exhaustive
def test_a_sweep_that_is_asked_to_end_between_trainings_starts_no_further_job(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wgan_cli.build import build_dataset

    asked = []

    def second_never_comes(config: Any) -> Any:
        asked.append(config.seed)
        if len(asked) == 2:
            send(signal.SIGTERM)
            time.sleep(FOREVER)
        return build_dataset(config)

    monkeypatch.setattr("wgan_cli.build.build_dataset", second_never_comes)
    assert run(["-m", *TINY, "seed=0,1,2", "hydra.sweep.dir=sweep"]) == 75
    assert asked == [0, 1]
    assert [path.parent.name for path in (here / "sweep").rglob("status.json")] == ["0"]
    # The same sweep again does the rest.
    assert run(["-m", *TINY, "seed=0,1,2", "hydra.sweep.dir=sweep"]) == 0
    assert asked == [0, 1, 1, 2]


def test_a_second_ctrl_c_leaves_at_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(self: Trainer) -> None:
        (here / "training").touch()
        time.sleep(FOREVER)

    monkeypatch.setattr(Trainer, "advance", endless)
    child = os.fork()
    if child == 0:
        os._exit(run([*TINY, "hydra.run.dir=mine"]))
    try:
        while not (here / "training").exists():
            time.sleep(0.01)
        os.kill(child, signal.SIGINT)
        time.sleep(0.2)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        os.kill(child, signal.SIGINT)
        _, status = os.waitpid(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGINT


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals, leaving_when_asked():
            send(signal.SIGHUP)
            assert signals.requested() is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with leaving_when_asked(), StopSignals():
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_training_notes_what_would_end_a_command() -> None:
    with leaving_when_asked():
        with StopSignals() as signals:
            send(signal.SIGTERM)
            assert isinstance(signals.requested(), PreemptedError)
            with pytest.raises(StopNow) as caught, signals.at_once():
                time.sleep(FOREVER)
            assert isinstance(caught.value.error, PreemptedError)
        with pytest.raises(Terminated):
            send(signal.SIGTERM)
            time.sleep(FOREVER)


def test_at_once_is_only_inside() -> None:
    with StopSignals() as signals:
        with signals.at_once():
            pass
        send(signal.SIGINT)
        assert isinstance(signals.requested(), InterruptedRunError)


def pictures_in(run: Path) -> dict[str, list[int]]:
    events = EventAccumulator(str(run / "tensorboard"), {"images": 0}).Reload()
    tags = events.Tags()["images"]
    assert "samples/real" in tags
    return {tag: [image.step for image in events.Images(tag)] for tag in tags}


@pytest.mark.parametrize("nth", exhaustive_beyond([1, 6], [1, 5, 6, 9]))
def test_a_step_that_takes_too_long_is_saved_half_done_and_finished_later(
    nth: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*OFTEN, "n_critic=3", "loss=hinge", "ema=0.5"]
    assert run([*words, "hydra.run.dir=whole"]) == 0
    update, calls = Updates.critic_update, []

    def slow(self: Updates, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == nth:
            send(signal.SIGTERM)
        return update(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr("wgan_cli.stop_signals.PATIENCE", 0.0)
        patch.setattr(Updates, "critic_update", slow)
        assert run([*words, "hydra.run.dir=cut"]) == 75
    # The last of a step's updates is followed by the generator's and the end of the step.
    step, inner = divmod(nth, 3)
    assert (state_of(here / "cut")["step"], state_of(here / "cut")["inner"]) == (step, inner)
    assert status_of(here / "cut")["step"] == step
    typed = (here / "cut" / "overrides.yaml").read_text()
    assert run(["resume=cut"]) == 0
    assert (here / "cut" / "overrides.yaml").read_text() == typed
    assert_same_state(here / "whole", here / "cut")
    for one, other in zip(metrics_of(here / "whole"), metrics_of(here / "cut"), strict=True):
        assert one["critic/wasserstein"] == other["critic/wasserstein"]
    assert pictures_in(here / "whole") == pictures_in(here / "cut")


def test_a_step_that_is_soon_over_is_finished(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update, calls = Updates.critic_update, []

    def asked(self: Updates, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            send(signal.SIGTERM)
        return update(self, *arguments)

    monkeypatch.setattr(Updates, "critic_update", asked)
    assert run([*OFTEN, "n_critic=3", "hydra.run.dir=cut"]) == 75
    assert (state_of(here / "cut")["step"], state_of(here / "cut")["inner"]) == (2, 0)


@pytest.mark.parametrize(
    ("failing", "number"),
    exhaustive_beyond(
        [(False, signal.SIGINT), (True, signal.SIGTERM)],
        itertools.product([False, True], OUTCOMES),
    ),
)
def test_a_signal_at_the_end_of_a_job_ends_the_sweep_all_the_same(
    failing: bool, number: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*arguments: Any) -> None:
        send(number)
        if failing:
            raise DataError("and then this")
        save_checkpoint(*arguments)

    monkeypatch.setattr("wgan_cli.training.callbacks.checkpoints.save_checkpoint", asked)
    words = ["-m", *TINY, "seed=0,1,2", "hydra.sweep.dir=sweep"]
    assert run(words) == (130 if number == signal.SIGINT else 75)
    (job,) = (path.parent for path in (here / "sweep").rglob("status.json"))
    expected = ("failed", 3) if failing else ("finished", 0)
    assert (status_of(job)["state"], status_of(job)["exit_code"]) == expected


def test_patience_is_counted_from_the_first_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 14.0, 14.5, 15.5])
    monkeypatch.setattr("wgan_cli.stop_signals.time.monotonic", lambda: next(clock))
    with StopSignals() as signals:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert signals.overdue() is None
        assert isinstance(signals.overdue(), PreemptedError)


def test_a_second_signal_finds_the_run_being_saved() -> None:
    with StopSignals() as signals:
        with pytest.raises(StopNow), signals.at_once():
            send(signal.SIGTERM)
            time.sleep(FOREVER)
        send(signal.SIGTERM)
        assert isinstance(signals.requested(), PreemptedError)


@pytest.mark.parametrize(
    "name",
    exhaustive_beyond(
        ["ünï r", "q'x", "br{a}ce"],
        ["ünï r", "q'x", "a=b", "c,omma", "br{a}ce", "back\\slash", "~t"],
    ),
)
def test_what_is_said_can_be_typed_whatever_the_folder_is_called(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(self: Updates, *arguments: Any) -> torch.Tensor:
        send(signal.SIGTERM)
        return update(self, *arguments)

    update = Updates.critic_update
    with monkeypatch.context() as patch:
        patch.setattr(Updates, "critic_update", asked)
        assert run([*TINY, f"hydra.run.dir={quoted(name)}"]) == 75
    assert status_of(here / name)["state"] == "preempted"
    said = capsys.readouterr().err.splitlines()[-1]
    assert run(shlex.split(said.partition("go on with: wgan-train ")[2])) == 0
    assert status_of(here / name)["state"] == "finished"


def test_patience_leaves_time_to_save_before_a_scheduler_kills() -> None:
    assert 0 < PATIENCE <= 10
