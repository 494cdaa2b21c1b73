"""Sweeps whose jobs run beside each other: joblib's workers, and submitit as it runs locally."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY, metrics_of, status_of
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry

from benchmarks.forked_commands import CommandServer, ForkedProcess, Start
from wgan_cli.commands import sweep_workers
from wgan_cli.commands.composition import Composer
from wgan_cli.commands.sweep_job import claim_job_folder
from wgan_cli.commands.sweep_values import jobs_of
from wgan_cli.commands.train import run
from wgan_cli.errors import FolderInUseError

GRID = ["loss=wasserstein,hinge", "clip=0.003,0.01,0.03"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
TIMES = ("throughput/", "seconds", "started", "ended")


@pytest.fixture
def start(command_server: CommandServer) -> Callable[..., ForkedProcess]:
    """`wgan-train -m` in a process group of its own."""

    def starting(here: Path, *words: str) -> ForkedProcess:
        return command_server.start(
            "wgan-train", ["-m", *words], here, start=Start(new_session=True)
        )

    return starting


def wait_for(condition: Callable[[], bool], process: ForkedProcess) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


def outcomes(sweep: Path) -> dict[str, tuple[str, dict[str, float]]]:
    """What was trained, by the words typed for it: its state and numbers, times aside."""
    found = {}
    for path in sweep.glob("*/status.json"):
        words = " ".join(yaml.safe_load((path.parent / "overrides.yaml").read_text()))
        status = json.loads(path.read_text())
        final = {k: v for k, v in status["final"].items() if not k.startswith(TIMES)}
        found[words] = (status["state"], final)
    return found


def kill_group(process: ForkedProcess) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def ended(
    process: ForkedProcess,
    condition: Callable[[], bool],
    act: Callable[[], object],
    seconds: float = 200,
) -> tuple[str, str]:
    """What a sweep has printed at its end, in which `act` is done once the condition holds."""
    try:
        wait_for(condition, process)
        act()
        return process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            kill_group(process)


@pytest.mark.exhaustive
def test_joblib_gives_what_one_job_after_the_other_gives_also_when_it_is_killed_half_way(
    start: Callable[..., ForkedProcess],
    here: Path,
) -> None:
    """Six jobs at equal threads: equal rows and numbers; the rerun makes up what is missing."""
    words = [*TINY, *GRID, "steps=12", "log_every=3", "checkpoint_every=3"]
    words += ["metrics=[wasserstein/exact]"]
    assert run(["-m", *words, "hydra.sweep.dir=one"]) == 0
    expected = outcomes(here / "one")
    assert len(expected) == 6
    process = start(here, *words, *JOBLIB, "hydra.sweep.dir=two")
    try:
        sweep = here / "two"
        wait_for(
            lambda: sum(state == "finished" for state, _ in outcomes(sweep).values()) >= 2, process
        )
    finally:
        kill_group(process)
    cut = outcomes(sweep)
    assert 2 <= sum(state == "finished" for state, _ in cut.values()) < 6
    again = start(here, *words, *JOBLIB, "hydra.sweep.dir=two")
    out, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert outcomes(sweep) == expected
    for path in sweep.glob("*/metrics.jsonl"):
        assert [point["step"] for point in metrics_of(path.parent)] == [3, 6, 9, 12]
    for number in range(6):
        assert (sweep / str(number)).is_dir()
    assert err.count("finished") >= 6 - len(cut)
    assert out.count("finished") >= 6


@pytest.mark.exhaustive
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_lets_all_workers_save_and_no_job_begin(
    number: int, code: int, start: Callable[..., ForkedProcess], tmp_path: Path
) -> None:
    words = [*TINY, "steps=1000000", "log_every=1", "seed=1,2,3,4", "hydra.sweep.dir=sweep"]
    process = start(tmp_path, *words, *JOBLIB)
    jobs = [tmp_path / "sweep" / name for name in "01"]

    def training() -> bool:
        return all((job / "status.json").exists() and status_of(job)["step"] >= 1 for job in jobs)

    _, stderr = ended(process, training, lambda: process.send_signal(number), 60)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert "hydra.sweep.dir=sweep" in stderr
    assert len(list((tmp_path / "sweep").glob("*/status.json"))) == 2
    assert len([path for path in (tmp_path / "sweep").iterdir() if path.is_dir()]) == 2
    for job in jobs:
        status = status_of(job)
        assert status["state"] == "preempted"
        assert (job / "checkpoints" / f"step_{status['step']:08d}.pt").exists()


@pytest.mark.exhaustive
def test_a_job_that_a_scheduler_pre_empts_is_saved_and_goes_on_by_itself(
    start: Callable[..., ForkedProcess], tmp_path: Path
) -> None:
    words = [*TINY, "steps=2000", "log_every=20", "checkpoint_every=100000", "seed=1"]
    words += ["metrics=[wasserstein/exact]"]
    process = start(tmp_path, *words, "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep")
    job = tmp_path / "sweep" / "0"
    tasks: list[int] = []

    def training() -> bool:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes()
            except OSError:
                continue
            if b"submitit.core._submit" in line and str(tmp_path).encode() in line:
                tasks.append(int(path.parent.name))
        return bool(tasks) and (job / "status.json").exists() and status_of(job)["step"] >= 20

    out, err = ended(process, training, lambda: os.kill(tasks[-1], signal.SIGUSR2))
    assert process.returncode == 0, err
    status = status_of(job)
    assert (status["state"], status["step"]) == ("finished", 2000)
    assert "preempted" in err
    assert (job / "train.log").read_text().count("Going on from") == 1
    assert [point["step"] for point in metrics_of(job)] == list(range(20, 2001, 20))
    assert "finished" in out


def test_jobs_that_start_in_one_instant_take_a_folder_each(tmp_path: Path) -> None:
    """Numbers clash where an earlier sweep with other values has left its own."""
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        claim_job_folder(tmp_path / str(number), [f"seed={number + 100}"])
    words = [[f"seed={number}"] for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda n: claim_job_folder(tmp_path / str(n), words[n]), range(8)))
    assert len(set(taken)) == 8
    assert not {path.name for path in taken} & {"0", "1", "2"}
    for path, own in zip(taken, words, strict=True):
        assert yaml.safe_load((path / "overrides.yaml").read_text()) == own
    # Each finds its own again, whatever number it has now.
    assert claim_job_folder(tmp_path / "0", words[5]) == taken[5]
    with pytest.raises(FolderInUseError, match="holds another job, of seed=100"):
        (tmp_path / "0").rename(tmp_path / "mine")
        claim_job_folder(tmp_path / "mine", ["seed=7000"])


def test_gpus_are_dealt_out_one_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with sweep_workers.own_gpu("auto") as first, sweep_workers.own_gpu("cuda") as second:
        assert {first, second} == {"cuda:0", "cuda:1"}
        with sweep_workers.own_gpu("auto") as third, sweep_workers.own_gpu("auto") as fourth:
            assert {third, fourth} == {"cuda:0", "cuda:1"}
    with sweep_workers.own_gpu("auto") as again:
        assert again == first
        with sweep_workers.own_gpu("cuda:0") as named, sweep_workers.own_gpu("cpu") as cpu:
            assert (named, cpu) == ("cuda:0", "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with sweep_workers.own_gpu("auto") as only:
        assert only == "auto"


def test_a_worker_that_was_asked_to_end_takes_no_further_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the signal came between two jobs; only amid a job does the command send one."""
    monkeypatch.setattr(sweep_workers, "_over", False)
    monkeypatch.setattr(sweep_workers, "_prepared", False)
    before = {number: signal.getsignal(number) for number in sweep_workers._SIGNALS}
    ran: list[int] = []

    def job(end: BaseException | None = None) -> int:
        assert [path.name for path in (tmp_path / ".workers").iterdir()] == [str(os.getpid())]
        ran.append(1)
        if end is not None:
            raise end
        return 0

    try:
        assert sweep_workers.in_worker(tmp_path, job) == 0
        assert not list((tmp_path / ".workers").iterdir())
        os.kill(os.getpid(), signal.SIGTERM)
        assert sweep_workers.in_worker(tmp_path, job) == 75
        assert len(ran) == 1
        monkeypatch.setattr(sweep_workers, "_over", False)
        assert sweep_workers.in_worker(tmp_path, lambda: job(SystemExit(75))) == 75
        assert sweep_workers.in_worker(tmp_path, job) == 75
        assert len(ran) == 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.exhaustive
def test_workers_of_which_one_is_idle_end_and_the_command_with_them(
    start: Callable[..., ForkedProcess], tmp_path: Path
) -> None:
    words = [*TINY, "steps=1,1000000,1000001", "log_every=1", "metrics=[]"]
    words += ["hydra.launcher.n_jobs=3", "hydra.sweep.dir=sweep", "hydra/launcher=joblib"]
    process = start(tmp_path, *[word for word in words if word != "steps=2"])
    jobs = [tmp_path / "sweep" / name for name in "012"]

    def one_is_idle() -> bool:
        if not all((job / "status.json").exists() for job in jobs):
            return False
        return status_of(jobs[0])["state"] == "finished" and all(
            status_of(job)["step"] >= 1 for job in jobs
        )

    _, stderr = ended(process, one_is_idle, lambda: os.killpg(process.pid, signal.SIGINT), 60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    for job in jobs[1:]:
        status = status_of(job)
        assert status["state"] in ("preempted", "interrupted")
        assert (job / "checkpoints" / f"step_{status['step']:08d}.pt").exists()


@pytest.mark.exhaustive
def test_a_worker_that_is_killed_costs_its_job_at_most(
    start: Callable[..., ForkedProcess], tmp_path: Path
) -> None:
    """As the system does where memory runs out: joblib gives up, and the rest begins again."""
    words = [*TINY, "log_every=10", "seed=1,2,3", "metrics=[]", "checkpoint_every=10", *JOBLIB]
    words = [word for word in words if word != "steps=2"]
    process = start(tmp_path, *words, "steps=1500", "hydra.sweep.dir=sweep")
    sweep = tmp_path / "sweep"

    def training() -> bool:
        return all(
            (sweep / job / "status.json").exists() and status_of(sweep / job)["step"] >= 20
            for job in "01"
        )

    def kill_a_worker() -> None:
        os.kill(int(next((sweep / ".workers").iterdir()).name), signal.SIGKILL)

    out, err = ended(process, training, kill_a_worker)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "Its process was killed" in err
    assert out.count("finished") >= 3
    for job in "012":
        assert status_of(sweep / job)["step"] == 1500
    assert (sweep / "report.html").is_file()
    assert not (sweep / ".workers").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [(["hydra.launcher.n_jobs=0"], "n_jobs"), (["hydra.launcher.n_jobs=many"], "n_jobs")],
)
def test_a_launcher_that_is_set_wrongly_is_2(
    words: list[str], reason: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["-m", *TINY, *JOBLIB[:1], *words, "seed=1,2", "hydra.sweep.dir=sweep"]) == 2
    stderr = capsys.readouterr().err
    assert reason in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["seed=1"], 1),
        (GRID, 6),
        (["seed=range(3)", "loss=hinge"], 3),
        (["experiment=momentum"], 9),
        (["experiment=momentum", "seed=0,1"], 18),
        (["experiment=momentum", "n_critic=3", "seed=0,1"], 6),
    ],
)
def test_a_sweep_knows_how_many_jobs_it_has(words: list[str], count: int) -> None:
    assert len(jobs_of(Composer().choices(words))) == count


def test_a_launcher_that_is_not_installed_is_named_with_its_extra(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra.core.config_store import ConfigStore

    repository = dict(ConfigStore.instance().repo["hydra"]["launcher"])
    del repository["joblib.yaml"]
    monkeypatch.setitem(ConfigStore.instance().repo["hydra"], "launcher", repository)
    assert run(["-m", *TINY, "seed=1,2", "hydra/launcher=joblib"]) == 2
    assert "pip install 'wgan-train[parallel]'" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_hydras_plugins_can_be_registered_after_the_checked_reader() -> None:
    """Worker processes do this: they get the reader from their parent first."""
    Composer()
    SourcesRegistry.instance().register(FileConfigSource)
    assert SourcesRegistry.instance().resolve("file") is not FileConfigSource
