"""A search whose trials are a small script: how each ends, and what survives a kill."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import exhaustive_beyond

from wgan_cli.errors import (
    ConfigError,
    DataError,
    DiskError,
    InterruptedRunError,
    PreemptedError,
    WganError,
)
from wgan_cli.locks import is_stale
from wgan_cli.search.folder import SearchFolder, open_study
from wgan_cli.search.loop import ClaimedTrial, NoTrialLeft, SearchLoop, claim_trial
from wgan_cli.search.space import parse_search
from wgan_cli.search.study import StudySummary, final_summary, read_study, trial_line

# Replaces wgan-train: writes a line of metrics.jsonl every ten steps, or continues that file.
# `plan` says how trial 0, 1, ... ends; the last entry holds for all further trials. A `held` trial
# waits for a file `go`; a `slow` one stays at its first line until it is started again.
STUB = """
import json, os, signal, sys, time
folder, words = sys.argv[1], dict(word.split("=", 1) for word in sys.argv[2:])
number = int(os.path.basename(folder))
plan = words.get("plan", "ok").split(",")
how = plan[min(number, len(plan) - 1)]
os.makedirs(folder, exist_ok=True)
metrics = os.path.join(folder, "metrics.jsonl")

def status(state, code, message=""):
    with open(os.path.join(folder, "status.json"), "w") as file:
        json.dump({"state": state, "exit_code": code, "message": message, "steps": 40}, file)

def stop(*_):
    status("preempted", 75)
    os._exit(75)

signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, signal.SIG_IGN)
done = len(open(metrics).readlines()) if os.path.exists(metrics) else 0
with open(os.path.join(folder, "starts"), "a") as file:
    file.write(f"{10 * done}\\n")
if how == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how in ("refused", "data", "disk", "diverged", "preempted"):
    code = {"refused": 2, "data": 3, "disk": 7, "diverged": 5, "preempted": 75}[how]
    if how == "diverged":
        status("diverged", 5, "critic/loss became NaN at step 7.\\ud800")
    print(f"wgan-train: it was {how}.\\n")
    sys.exit(code)
x = float(words["x"])
while how == "held" and not os.path.exists(os.path.join(folder, "..", "..", "go")):
    time.sleep(0.02)
for step in range(10 * done + 10, 50, 10):
    value = (x - 0.3) ** 2 + 1 / step
    if how in ("bad", "nan") or (how == "late" and step == 40):
        value = float("nan") if how == "nan" else 100
    name = "other" if how == "untagged" else words.get("tag", "score")
    with open(metrics, "a") as file:
        file.write(json.dumps({"step": step, name: value}) + "\\n")
    if how == "bad" or (how == "slow" and not done):
        time.sleep(60)
    if how == "late" and step == 40:
        status("running", None)
        time.sleep(1)
status("finished", 0)
"""

# A search in a process of its own, which stops on signals as wgan-search does.
DRIVER = """
import sys
from pathlib import Path
from wgan_cli.search.folder import SearchFolder
from wgan_cli.search.loop import SearchLoop
from wgan_cli.stop_signals import StopSignals

folder, stub = SearchFolder(Path(sys.argv[1])), sys.argv[2]
signals = StopSignals()
with signals:
    try:
        SearchLoop(
            folder,
            lambda words, run: [sys.executable, "-S", stub, str(run), *words],
            signals.requested,
            lambda line: print(line, flush=True),
        ).run()
    except Exception as error:
        sys.exit(error.exit_code)
"""
X = {"x": {"low": 0.0, "high": 1.0}}
NEVER = 60


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    path = tmp_path / "stub.py"
    path.write_text(STUB)
    return path


@pytest.fixture
def begun(tmp_path: Path) -> Callable[..., SearchFolder]:
    """Start a search with these overrides in a fresh folder."""

    def begin(*words: str, name: str = "search", storage: Any = None, **more: Any) -> SearchFolder:
        node = {"space": X, "metric": "score", "words": list(words), "trials": 5, **more}
        node.setdefault("pruner", {"name": "none"})
        folder = SearchFolder(tmp_path / name, storage)
        folder.begin(parse_search(node, Path("x.yaml")), "x")
        return folder

    return begin


@pytest.fixture
def search(stub: Path) -> Callable[..., StudySummary]:
    """Run the search of a folder in this process."""

    def run(
        folder: SearchFolder,
        asked: Callable[[], WganError | None] = lambda: None,
        said: list[str] | None = None,
    ) -> StudySummary:
        def command(words: Sequence[str], place: Path) -> list[str]:
            return [sys.executable, "-S", str(stub), str(place), *words]

        lines = [] if said is None else said
        return SearchLoop(folder, command, asked, lines.append).run()

    return run


@pytest.fixture
def driver(tmp_path: Path, stub: Path) -> Iterator[Callable[[SearchFolder], Any]]:
    """Start the search of a folder in a process group of its own."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    started = []

    def start(folder: SearchFolder) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(script), str(folder.path), str(stub)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + NEVER
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def logged(folder: SearchFolder, number: int) -> bool:
    """Return whether a trial has written a log line."""
    path = folder.trial(number) / "metrics.jsonl"
    return path.exists() and path.read_text().endswith("\n")


def starts(folder: SearchFolder, number: int) -> list[int]:
    """Return the steps from which a trial's processes started."""
    path = folder.trial(number) / "starts"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def states(facts: StudySummary | None) -> list[str]:
    assert facts is not None
    return [trial.state for trial in facts.trials]


def test_a_search_runs_trials_up_to_the_total(begun: Any, search: Any) -> None:
    said: list[str] = []
    folder = begun(trials=9)
    facts = search(folder, said=said)
    assert [trial.number for trial in facts.trials] == list(range(9))
    assert set(states(facts)) == {"finished"}
    for trial in facts.trials:
        assert trial.value == pytest.approx((trial.params["x"] - 0.3) ** 2 + 1 / 40)
        assert list(trial.history) == [10, 20, 30, 40]
        assert trial.value == trial.history[40]
    assert facts.best == min(facts.trials, key=lambda trial: trial.value)
    assert facts.best_so_far[8] == facts.best.value
    assert [trial.value for trial in facts.ranked] == sorted(t.value for t in facts.trials)
    assert len({trial.params["x"] for trial in facts.trials}) == 9
    assert [line.split()[0] for line in said] == [f"#{n}" for n in range(9)]
    assert f"#{facts.best.number})" in said[-1]
    # All trials are done: another start changes nothing.
    assert search(folder).trials == facts.trials
    assert read_study(folder.path) == facts


def test_maximize_prefers_the_largest_value(begun: Any, search: Any) -> None:
    facts = search(begun(direction="maximize"))
    assert facts.best == max(facts.trials, key=lambda trial: trial.value)
    values = [trial.value for trial in facts.trials]
    assert facts.best_so_far == {n: max(values[: n + 1]) for n in range(5)}


@pytest.mark.exhaustive
@pytest.mark.parametrize("sampler", exhaustive_beyond(["tpe"], ["tpe", "random"]))
def test_the_same_seed_proposes_the_same_settings(sampler: str, begun: Any, search: Any) -> None:
    def proposed(name: str, seed: int, *parts: int) -> list[float]:
        for total in parts:
            more = {"sampler": {"name": sampler, "seed": seed}, "trials": total}
            facts = search(begun(name=name, **more))
        return [trial.params["x"] for trial in facts.trials]

    # 13, as TPE's first ten proposals are random. Each start makes a new sampler.
    whole = proposed("whole", 0, 13)
    assert len(set(whole)) == 13
    assert proposed("parts", 0, 4, 13) == whole
    assert proposed("other", 1, 4) != whole[:4]


def test_failed_trials_have_a_reason_and_no_value(begun: Any, search: Any) -> None:
    folder = begun("plan=diverged,ok,crash,killed,nan,refused", trials=6)
    said: list[str] = []
    facts = search(folder, said=said)
    assert states(facts) == ["failed", "finished", "failed", "failed", "failed", "failed"]
    reasons = [trial.reason for trial in facts.trials]
    assert reasons == [
        "critic/loss became NaN at step 7.?",
        "",
        "ended by SIGSEGV",
        "ended by SIGKILL, as happens when memory runs out",
        "the metric is nan",
        "it was refused.",
    ]
    assert [trial.value is None for trial in facts.trials] == [n != 1 for n in range(6)]
    # The study never holds NaN as a value.
    assert ":NaN" not in folder.journal.read_text()
    assert all(reason in line for reason, line in zip(reasons, said, strict=True))
    assert facts.best_so_far == dict.fromkeys(range(1, 6), facts.trials[1].value)


def test_a_bad_trial_is_pruned(begun: Any, search: Any) -> None:
    pruner = {"name": "median", "first_step": 10, "warmup_trials": 2}
    facts = search(begun("plan=ok,ok,bad", pruner=pruner, trials=4))
    assert states(facts) == ["finished", "finished", "pruned", "pruned"]
    pruned = facts.trials[2]
    assert pruned.history == {10: 100.0}
    assert pruned.value == 100.0
    assert facts.best in facts.trials[:2]
    assert "2 finished, 2 pruned, 0 failed" in final_summary(
        facts, dict.fromkeys(range(4), Path()), ""
    )


def test_a_trial_is_not_pruned_at_its_last_step(begun: Any, search: Any) -> None:
    pruner = {"name": "median", "first_step": 40, "warmup_trials": 2}
    facts = search(begun("plan=ok,ok,late", pruner=pruner, trials=3))
    assert states(facts) == ["finished"] * 3
    assert facts.trials[2].value == 100.0


def test_a_finished_trial_of_a_dead_search_is_not_repeated(begun: Any, search: Any) -> None:
    folder = begun(trials=1)
    asked, _, _ = folder.read()
    lost = claim_trial(folder, open_study(folder), asked)
    assert isinstance(lost, ClaimedTrial)
    lost.lock.close()
    run = folder.trial(0)
    lines = [{"step": step, "score": 1 / step} for step in (10, 20)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "status.json").write_text(json.dumps({"state": "finished", "exit_code": 0}))
    facts = search(folder)
    assert facts.trials[0].value == 1 / 20
    assert facts.trials[0].history == {10: 1 / 10, 20: 1 / 20}
    assert starts(folder, 0) == []


def test_the_metric_matches_a_sample_count_but_not_the_floor(begun: Any, search: Any) -> None:
    assert set(states(search(begun("tag=score_359", trials=1, name="a")))) == {"finished"}
    with pytest.raises(ConfigError, match="no such tag, only score_real_real"):
        search(begun("tag=score_real_real", trials=1, name="b"))


def test_an_error_that_all_trials_share_ends_the_search(begun: Any, search: Any) -> None:
    with pytest.raises(ConfigError, match="a run measured no such tag, only other"):
        search(begun("plan=untagged", name="untagged"))
    folder = begun("plan=data", name="data")
    with pytest.raises(DataError, match="it was data"):
        search(folder)
    assert states(read_study(folder.path)) == ["failed"]
    # Once a trial has finished, unreadable data must be due to a setting.
    facts = search(begun("plan=ok,data,ok", trials=3, name="later"))
    assert states(facts) == ["finished", "failed", "finished"]


def test_a_full_disk_loses_no_trial(begun: Any, search: Any, stub: Path) -> None:
    folder = begun("plan=ok,disk", trials=3)
    with pytest.raises(DiskError, match="it was disk"):
        search(folder)
    assert states(read_study(folder.path)) == ["finished", "running"]
    stub.write_text(STUB.replace('"disk", ', ""), encoding="utf-8")
    assert states(search(folder)) == ["finished"] * 3


def test_a_trial_stopped_by_another_process_stays_resumable(begun: Any, search: Any) -> None:
    folder = begun("plan=preempted", trials=1)
    with pytest.raises(PreemptedError):
        search(folder)
    assert states(read_study(folder.path)) == ["running"]


@pytest.mark.parametrize(
    "error", [InterruptedRunError("Interrupted."), PreemptedError("Asked to stop.")]
)
def test_a_stopped_search_resumes_its_trial(error: WganError, begun: Any, search: Any) -> None:
    folder = begun("plan=ok,slow", trials=2)
    with pytest.raises(type(error)):
        search(folder, asked=lambda: error if logged(folder, 1) else None)
    stopped = read_study(folder.path)
    assert stopped is not None
    assert states(stopped) == ["finished", "running"]
    assert json.loads((folder.trial(1) / "status.json").read_text())["state"] == "preempted"
    facts = search(folder)
    assert states(facts) == ["finished", "finished"]
    assert facts.trials[1].params == stopped.trials[1].params
    first, again = starts(folder, 1)
    assert (first, again > 0) == (0, True)
    assert len(starts(folder, 0)) == 1


def test_a_killed_search_continues_to_the_same_total(
    begun: Any, search: Any, driver: Any, stub: Path
) -> None:
    folder = begun("plan=ok,ok,slow,ok", trials=5)
    killed = driver(folder)
    until(lambda: len((read_study(folder.path) or EMPTY).ranked) == 2)
    # Kill it during the third trial, after its first log line.
    until(lambda: logged(folder, 2))
    os.killpg(killed.pid, signal.SIGKILL)
    # The kernel drops a lock only when it has taken the process down, which can take a moment.
    until(lambda: is_stale(folder.trial(2) / ".search.lock"))
    left = read_study(folder.path)
    assert left is not None
    assert states(left) == ["finished", "finished", "running"]
    said: list[str] = []
    facts = search(folder, said=said)
    assert states(facts) == ["finished"] * 5
    assert [trial.params for trial in facts.trials[:3]] == [trial.params for trial in left.trials]
    assert facts.trials[:2] == left.trials[:2]
    assert [len(starts(folder, n)) for n in range(5)] == [1, 1, 2, 1, 1]
    assert starts(folder, 2)[1] > 0
    assert said[0] == "  #2 is resumed."
    assert list(facts.trials[2].history) == [10, 20, 30, 40]


def test_a_run_that_outlives_its_search_is_not_started_twice(
    begun: Any, search: Any, driver: Any
) -> None:
    folder = begun("plan=held", trials=1)
    killed = driver(folder)
    until((folder.trial(0) / "starts").exists)
    # Kill only the search: its child process goes on.
    killed.kill()
    killed.wait()

    class Said(list[str]):
        def append(self, line: str) -> None:
            super().append(line)
            (folder.path / "go").touch()

    said = Said()
    facts = search(folder, said=said)
    assert said[0] == "No trial is left to start; waiting for 1 trial in other processes."
    assert states(facts) == ["finished"]
    assert starts(folder, 0) == [0]


@pytest.mark.exhaustive
def test_two_processes_share_the_trials(begun: Any, driver: Any) -> None:
    folder = begun("plan=held,held,ok", trials=8)
    both = [driver(folder), driver(folder)]
    until(lambda: all((folder.trial(n) / "starts").exists() for n in range(2)))
    (folder.path / "go").touch()
    said = [process.communicate(timeout=NEVER)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    facts = read_study(folder.path)
    assert states(facts) == ["finished"] * 8
    assert [starts(folder, n) for n in range(8)] == [[0]] * 8
    shares = [set(map(int, re.findall(r"^  #(\d+)", text, re.MULTILINE))) for text in said]
    assert not shares[0] & shares[1]
    assert shares[0] | shares[1] == set(range(8))
    assert all(shares)
    assert len({trial.params["x"] for trial in facts.trials}) == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_search_and_its_trial(number: int, begun: Any, driver: Any) -> None:
    folder = begun("plan=bad", trials=1)
    asked = driver(folder)
    until(lambda: logged(folder, 0))
    start = time.monotonic()
    os.killpg(asked.pid, number)
    assert asked.wait(NEVER) == {signal.SIGINT: 130, signal.SIGTERM: 75}[number]
    assert time.monotonic() - start < 10
    assert json.loads((folder.trial(0) / "status.json").read_text())["state"] == "preempted"
    assert states(read_study(folder.path)) == ["running"]


def test_processes_never_start_more_trials_than_the_total(begun: Any) -> None:
    folder = begun(trials=3)
    asked, _, _ = folder.read()
    studies = [open_study(folder), open_study(folder)]
    found = [claim_trial(folder, studies[n % 2], asked) for n in range(5)]
    assert [type(one) for one in found] == [
        ClaimedTrial,
        ClaimedTrial,
        ClaimedTrial,
        NoTrialLeft,
        NoTrialLeft,
    ]
    claims = [one for one in found if isinstance(one, ClaimedTrial)]
    assert [one.trial.number for one in claims] == [0, 1, 2]
    assert found[-1] == NoTrialLeft(running_elsewhere=3)
    # Its process dies, and the kernel drops the lock.
    claims[1].lock.close()
    again = claim_trial(folder, studies[0], asked)
    assert isinstance(again, ClaimedTrial)
    assert (again.trial.number, again.values, again.resumed) == (1, claims[1].values, True)
    studies[0].tell(again.trial, 1.0)
    again.lock.close()
    assert claim_trial(folder, studies[1], asked) == NoTrialLeft(running_elsewhere=2)


def test_the_first_trial_uses_the_given_values(begun: Any) -> None:
    space = {**X, "y": {"choices": [1, 2]}}
    folder = begun(trials=1, space=space)
    asked, _, _ = folder.read()
    # A kill left the enqueued trial waiting: it must not count beyond the total.
    open_study(folder).enqueue_trial({"x": 0.25})
    one = claim_trial(folder, open_study(folder), asked, {"x": 0.5})
    assert isinstance(one, ClaimedTrial)
    assert (one.trial.number, one.values["x"], one.resumed) == (0, 0.25, False)
    one.lock.close()
    again = claim_trial(folder, open_study(folder), asked, {"x": 0.5})
    assert isinstance(again, ClaimedTrial)
    assert (again.trial.number, again.values, again.resumed) == (0, one.values, True)
    asked, _, _ = begun(trials=2, space=space).read()
    two = claim_trial(folder, open_study(folder), asked, {"x": 0.5})
    assert isinstance(two, ClaimedTrial)
    assert two.trial.number == 1
    assert two.values["x"] not in (0.25, 0.5)
    assert isinstance(claim_trial(folder, open_study(folder), asked, {"x": 0.5}), NoTrialLeft)


def test_processes_that_claim_at_once_get_different_trials(begun: Any) -> None:
    folder = begun(trials=7)
    asked, _, _ = folder.read()
    studies = [open_study(folder) for _ in range(4)]
    gate = threading.Barrier(len(studies))
    first = {"x": 0.5}

    def ask(study: optuna.Study) -> list[int]:
        gate.wait()
        numbers = []
        while isinstance(found := claim_trial(folder, study, asked, first), ClaimedTrial):
            numbers.append(found.trial.number)
            held.append(found.lock)
        return numbers

    held: list[Any] = []
    with ThreadPoolExecutor(len(studies)) as threads:
        shares = list(threads.map(ask, studies))
    assert sorted(number for share in shares for number in share) == list(range(7))
    assert [trial.params["x"] == 0.5 for trial in open_study(folder).trials] == [True] + [False] * 6


def test_a_trial_that_ends_while_it_is_claimed_is_not_resumed(begun: Any) -> None:
    folder = begun(trials=2)
    asked, _, _ = folder.read()
    owner, other = open_study(folder), open_study(folder)
    mine = claim_trial(folder, owner, asked)
    assert isinstance(mine, ClaimedTrial)
    usual = folder.lock_trial

    def late(number: int) -> Any:
        if number == 0 and not mine.lock.closed:
            owner.tell(mine.trial, 1.0)
            mine.lock.close()
        return usual(number)

    folder.lock_trial = late
    found = claim_trial(folder, other, asked)
    assert isinstance(found, ClaimedTrial)
    assert (found.trial.number, found.resumed) == (1, False)


def test_a_resumed_trial_keeps_proposed_settings_and_proposes_the_rest(begun: Any) -> None:
    space = {**X, "y": {"choices": [1, 2]}}
    folder = begun(space=space)
    asked, _, _ = folder.read()
    half = open_study(folder).ask()
    half.suggest_float("x", 0.0, 1.0)
    found = claim_trial(folder, open_study(folder), asked)
    assert isinstance(found, ClaimedTrial)
    assert found.resumed
    assert found.values["x"] == pytest.approx(half.params["x"], rel=1e-5)
    assert found.values["y"] in (1, 2)


def test_another_search_in_the_folder_is_refused(begun: Any, search: Any) -> None:
    folder = begun(trials=1)
    search(folder)
    with pytest.raises(ConfigError) as refusal:
        begun(space={"x": {"low": 0.0, "high": 2.0}}, sampler={"seed": 3})
    message = str(refusal.value)
    assert "space.x.high 1.0 there, 2.0 now" in message
    assert "sampler.seed 0 there, 3 now" in message
    assert f"wgan-search {folder.path}" in message
    with pytest.raises(ConfigError, match=r"words \[\] there, \['tag=a'\] now"):
        begun("tag=a")
    # More trials are the same search.
    assert len(search(begun(trials=2)).trials) == 2


def test_runs_of_a_lost_study_are_refused(begun: Any, search: Any) -> None:
    folder = begun(trials=2)
    search(folder)
    folder.journal.rename(folder.path / "aside")
    with pytest.raises(ConfigError) as refusal:
        search(folder)
    assert str(refusal.value) == (
        f"{folder.trial(0)} holds a run of another study: put {folder.journal} back, or choose"
        " another --dir."
    )
    assert states(read_study(folder.path)) == []
    (folder.path / "aside").rename(folder.journal)
    assert len(search(begun(trials=3)).trials) == 3


@pytest.mark.parametrize("more", [[], ["x=0.5"]])
def test_a_trial_is_resumed_only_from_its_own_run(more: list[str], begun: Any, search: Any) -> None:
    folder = begun("hydra.verbose=true", "a=1", trials=1)
    asked, _, _ = folder.read()
    lost = claim_trial(folder, open_study(folder), asked)
    assert isinstance(lost, ClaimedTrial)
    lost.lock.close()
    x = f"x={lost.values['x']!r}"
    # A resumed run appends its overrides to those of the first start.
    noted = ["a=1", x, "a=1", x] if not more else ["a=1", *more]
    (folder.trial(0) / "overrides.yaml").write_text(json.dumps(noted))
    if more:
        with pytest.raises(ConfigError, match="0000 holds a run of another study"):
            search(folder)
        assert starts(folder, 0) == []
    else:
        assert states(search(folder)) == ["finished"]


def test_the_total_cannot_fall_below_the_existing_trials(begun: Any, search: Any) -> None:
    search(begun(trials=3))
    folder = begun(trials=2)
    assert folder.read()[0].trials == 3
    assert search(folder).total == 3
    begun(trials=9)
    assert begun(trials=5).read()[0].trials == 5


@pytest.mark.exhaustive
def test_a_study_in_a_database(begun: Any, search: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    folder = begun(storage=url, trials=2)
    assert read_study(folder.path, [url]) is None
    assert not (tmp_path / "studies.db").exists()
    facts = search(folder)
    assert states(facts) == ["finished"] * 2
    assert not folder.journal.exists()
    assert read_study(folder.path, [url]) == facts
    # Another search in the same database is another study.
    assert len(search(begun(storage=url, trials=1, name="second")).trials) == 1
    with pytest.raises(ConfigError, match=r"other\.db: the study of"):
        begun(storage="sqlite:///other.db", trials=2)
    with pytest.raises(ConfigError, match="--storage nonsense cannot be opened"):
        search(begun(storage="nonsense", name="third"))


def test_a_half_written_journal_record_is_dropped(begun: Any, search: Any) -> None:
    folder = begun(trials=2)
    search(folder)
    whole = folder.journal.read_bytes()
    folder.journal.write_bytes(whole + b'{"op_code":4,"wor')
    facts = read_study(folder.path)
    assert states(facts) == ["finished"] * 2
    assert folder.journal.read_bytes() != whole
    assert len(search(begun(trials=3)).trials) == 3


@pytest.mark.parametrize("broken", ["study.log", "search.yaml"])
def test_a_damaged_search_is_not_read(broken: str, begun: Any, search: Any) -> None:
    folder = begun(trials=1)
    search(folder)
    (folder.path / broken).write_text("[{\n" * 5)
    assert read_study(folder.path) is None
    with pytest.raises(DiskError if broken == "study.log" else ConfigError):
        search(folder)
    (folder.path / broken).unlink()
    assert read_study(folder.path) is None
    assert read_study(folder.path / "nowhere") is None


def test_a_study_is_not_shown_without_optuna(
    begun: Any, search: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun(trials=1)
    search(folder)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert read_study(folder.path) is None


def test_importances_rank_the_settings(begun: Any) -> None:
    space = {**X, "y": {"low": 0.0, "high": 1.0}, "n": {"low": 1, "high": 9}}
    folder = begun(space=space, trials=40)
    asked, _, _ = folder.read()
    study = open_study(folder)

    def told(count: int) -> StudySummary:
        for _ in range(count):
            found = claim_trial(folder, study, asked)
            assert isinstance(found, ClaimedTrial)
            x, y = float(found.values["x"] or 0), float(found.values["y"] or 0)
            study.tell(found.trial, (x - 0.3) ** 2 + 0.001 * y)
            found.lock.close()
        facts = read_study(folder.path)
        assert facts is not None
        return facts

    assert told(4).importances == {}
    found = told(36).importances
    assert found.keys() == {"x", "y", "n"}
    assert sum(found.values()) == pytest.approx(1)
    assert next(iter(found)) == "x"
    assert all(map(math.isfinite, found.values()))


def test_a_trial_line_shows_value_settings_and_best(begun: Any) -> None:
    folder = begun(trials=1)
    study = open_study(folder)
    trial = study.ask({"x": optuna.distributions.FloatDistribution(0.0, 1.0)})
    study.tell(trial, 0.123456)
    facts = read_study(folder.path)
    assert facts is not None
    line = trial_line(facts.trials[0], facts.best)
    x = facts.trials[0].params["x"]
    assert line == f"  #0   finished  0.1235  x={x:.4g}  (best 0.1235, #0)"


EMPTY = StudySummary("score", "minimize", 0, (), {})
