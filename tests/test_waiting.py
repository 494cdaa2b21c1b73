"""How OpenMP's threads wait: the policy's variables, the load that is read, and the switch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from conftest import TINY

from benchmarks.forked_commands import CommandServer
from wgan_cli.waiting import load, monitor
from wgan_cli.waiting.load import Load, Reading, load_between, read
from wgan_cli.waiting.monitor import Judge, Monitor, _try_threads
from wgan_cli.waiting.policy import POLICY, has_own_policy, set_wait_policy

IDLE, ONE_CORE = Load(0.02, 0.01), Load(1.0, 0.1)
VARIABLES = (*POLICY, "KMP_LIBRARY")


@pytest.fixture(autouse=True)
def no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "KMP_WARNINGS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_the_policy_is_set_for_this_process_and_its_children():
    set_wait_policy()
    assert has_own_policy()
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert POLICY.items() <= json.loads(child.stdout).items()


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, "ACTIVE" if name == "OMP_WAIT_POLICY" else "7") for name in VARIABLES],
)
def test_a_users_choice_counts(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(name, value)
    set_wait_policy()
    assert {n: os.environ[n] for n in VARIABLES if n in os.environ} == {name: value}
    assert "KMP_WARNINGS" not in os.environ
    assert not has_own_policy()


def test_jobs_in_joblibs_workers_have_the_policy(command_server: CommandServer, here: Path):
    words = ["-m", *TINY, "steps=1", "seed=1,2", "hydra.sweep.dir=sweep", "hydra/launcher=joblib"]
    _, complaints = command_server.start("wgan-train", words, here).communicate(timeout=120)
    found = [json.loads(path.read_text()) for path in here.glob("sweep/*/environment.json")]
    assert [facts["wait_policy"] for facts in found] == [POLICY] * 2, complaints


def faked(proc: Path, ticks: dict[str, int], delayed: dict[str, int]) -> Path:
    (proc / "self/task").mkdir(parents=True, exist_ok=True)
    lines = ["cpu  9 9 9 9 9 9 9 9 9 9"]
    # user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice
    lines += [f"{cpu} {n} {n} {n} 55555 7777 {n} {n} {n} 888 99" for cpu, n in ticks.items()]
    (proc / "stat").write_text("\n".join([*lines, "intr 5", ""]))
    for task, nanoseconds in delayed.items():
        (proc / f"self/task/{task}").mkdir(exist_ok=True)
        (proc / f"self/task/{task}/schedstat").write_text(f"1 {nanoseconds} 2\n")
    return proc


def test_a_reading_counts_usable_cores_and_no_idle_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(load, "usable_cpus", lambda: {1, 12})
    found = read(faked(tmp_path, {"cpu0": 9000, "cpu1": 100, "cpu12": 10}, {"5": 3_000_000_000}))
    assert found.busy == pytest.approx(6 * 110 / 100)
    assert found.delayed == {"5": 3.0}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_a_reading_of_this_machine():
    before, after = read(), read()
    assert after.busy >= before.busy >= 0
    assert str(os.getpid()) in after.delayed


def test_load_is_what_others_use_and_what_this_process_waits():
    before = Reading(10.0, 100.0, 5.0, {"1": 1.0, "2": 1.0, "3": 9.0})
    after = Reading(12.0, 103.0, 6.0, {"1": 1.5, "2": 1.0, "4": 50.0})
    assert load_between(before, after) == Load(others=1.0, delayed=0.25)


def test_threads_spin_beside_a_program_only_if_a_core_is_left_for_it():
    assert not Judge(cores=4, threads=2).judge(Load(others=2.1, delayed=0.0))
    assert Judge(cores=4, threads=2).judge(Load(others=2.3, delayed=0.0))
    assert not Judge(cores=2, threads=2).judge(IDLE)
    assert Judge(cores=2, threads=2).judge(ONE_CORE)
    # A quota of processor time makes threads wait, though nobody else uses a core.
    assert Judge(cores=64, threads=2).judge(Load(others=0.0, delayed=0.3))


def test_threads_spin_again_after_some_idle_windows():
    judge = Judge(cores=2, threads=2)
    loads = [IDLE, ONE_CORE, IDLE, ONE_CORE, IDLE, IDLE, IDLE]
    assert [judge.judge(load) for load in loads] == [False, True, True, True, True, False, False]


def test_a_neighbour_that_comes_and_goes_is_waited_for_longer_each_time():
    """Each return to spinning beside it would cost many slow steps."""
    judge = Judge(cores=2, threads=2)
    lengths = []
    for _ in range(9):
        judge.judge(ONE_CORE)
        calm = 1
        while judge.judge(IDLE):
            calm += 1
        lengths.append(calm)
    assert lengths == [2, 4, 8, 16, 32, 64, 120, 120, 120]
    for _ in range(40):
        judge.judge(IDLE)
    judge.judge(ONE_CORE)
    assert [judge.judge(IDLE) for _ in range(2)] == [True, False]


class Switched:
    """A throttle that notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def hold(self) -> None:
        self.asked.append("hold")

    def release(self) -> None:
        self.asked.append("release")


def test_the_monitor_switches_with_the_load_and_ends_where_it_is_not_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    # A second each; in the second and third, others use a core.
    busy = iter([0.0, 1.0, 3.0, 5.0, 6.0, 7.0, 8.0])
    seconds = iter(range(99))

    def reading() -> Reading:
        second = next(seconds)
        try:
            return Reading(second, next(busy), second, {})
        except StopIteration:
            raise OSError("no longer told") from None

    monkeypatch.setattr(monitor, "read", reading)
    monkeypatch.setattr(monitor, "_WINDOW", 0)
    throttle = Switched()
    with caplog.at_level("INFO"):
        Monitor(Judge(cores=2, threads=2), throttle).run()  # type: ignore[arg-type]
    assert throttle.asked == ["release", "hold", "hold", "hold", "release", "release", "release"]
    assert [record.getMessage() for record in caplog.records] == [
        "The machine is busy: other processes use 1.0 of the 2 cores, and threads of this one wait"
        " for a core. A step takes longer."
    ]


@pytest.mark.parametrize(("threads", "cores", "own"), [(1, 2, True), (2, 17, True), (2, 2, False)])
def test_nothing_is_watched_for_one_thread_many_cores_or_a_users_policy(
    threads: int, cores: int, own: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(monitor, "usable_cpus", lambda: set(range(cores)))
    monkeypatch.setattr(monitor, "_monitor", None)
    if own:
        set_wait_policy()
    monitor.watch_load(threads)
    assert monitor._monitor is None


def test_one_thread_waits_for_nobody():
    assert not Judge(cores=2, threads=1).judge(Load(others=2.0, delayed=0.9))


def test_where_few_threads_are_allowed_they_go_on_spinning(monkeypatch: pytest.MonkeyPatch):
    """The runtime would end the process if it could not start a thread."""
    alive = threading.active_count()

    def failing(self: threading.Thread) -> None:
        if threading.active_count() >= alive + 5:
            raise RuntimeError("can't start new thread")
        original(self)

    original = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", failing)
    with pytest.raises(RuntimeError):
        _try_threads(6)
    assert threading.active_count() == alive
    _try_threads(5)
    assert threading.active_count() == alive
    reading = Reading(0.0, 0.0, 0.0, {}), Reading(1.0, 2.0, 0.0, {})
    monkeypatch.setattr(monitor, "read", iter(reading).__next__)
    throttle = Switched()
    throttle.hold = partial(_try_threads, 6)  # type: ignore[method-assign]
    Monitor(Judge(cores=2, threads=2), throttle).run()  # type: ignore[arg-type]
    assert throttle.asked == ["release"]


# With this count, threads spin for hours. So processor time passes while the main thread sleeps,
# unless the throttle lets them sleep at once.
SWITCH = """
import os, time
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000000000000"}
import torch
from wgan_cli.waiting.monitor import Throttle
torch.set_num_threads(2)
numbers, throttle = torch.ones(1_000_000), Throttle(len(os.sched_getaffinity(0)))

def busy():
    torch.mul(numbers, 2.0)
    used = time.process_time()
    time.sleep(0.2)
    return time.process_time() - used > 0.02

def settled(expected):
    # Threads that already wait are not affected by the switch, so this may take several tries.
    end = time.monotonic() + 20
    while busy() != expected and time.monotonic() < end:
        pass
    return busy() == expected

print(settled(True))
throttle.hold()
print(settled(False))
throttle.release()
print(settled(True), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs GCC's OpenMP runtime")
def test_the_throttle_lets_threads_sleep_and_spin_again():
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", SWITCH], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.stdout.split() == ["True"] * 3, done.stderr
