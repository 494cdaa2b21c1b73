"""How many cores a process may use, and how many threads a run then has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY

from benchmarks.workloads import composed
from wgan_cli.build.work import training_threads
from wgan_cli.commands import evaluate, sample
from wgan_cli.commands.sweep_job import Launcher
from wgan_cli.commands.sweep_workers import share_cores
from wgan_cli.commands.train import run
from wgan_cli.cores import cpu_quota, own_cores, physical_cores, usable_cores
from wgan_cli.machine import most_threads, useful_threads

V2 = "30 23 0:28 {shown} {mount} rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 {shown} {mount} rw,relatime - cgroup cgroup rw,cpu,cpuacct"
OTHER = "33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"


def fake(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


def hyperthreads(cpus: int) -> dict[str, str]:
    """The files of a machine on which CPU i and CPU i + cpus / 2 are one core."""
    half, folder = cpus // 2, "sys/devices/system/cpu"
    return {
        f"{folder}/cpu{cpu}/topology/core_cpus_list": f"{cpu % half},{cpu % half + half}"
        for cpu in range(cpus)
    }


def mounted(
    line: str, group: str, files: Mapping[str, str], shown: str = "/", mount: str = "/cg"
) -> dict[str, str]:
    """The files of a process in a group; `files` lie below the mount point."""
    escaped = mount.replace(" ", r"\040")
    return {
        "proc/self/cgroup": f"9:name=systemd:/init.scope\n{group}",
        "proc/self/mountinfo": f"{OTHER}\n{line.format(shown=shown, mount=escaped)}",
        **{f"{mount[1:]}/{name}": text for name, text in files.items()},
    }


def v1(folder: str, quota: str) -> dict[str, str]:
    return {f"{folder}cpu.cfs_quota_us": quota, f"{folder}cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        pytest.param({}, None, id="no groups"),
        pytest.param(mounted(V2, "0::/", {"cpu.max": "200000 100000"}), 2, id="a container"),
        pytest.param(mounted(V2, "0::/", {"cpu.max": "max 100000"}), None, id="unlimited"),
        pytest.param(mounted(V2, "0::/", {"cpu.max": "25000 50000"}), 0.5, id="half of one"),
        pytest.param(
            mounted(V2, "0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 200000"}),
            1.5,
            id="the group above has the limit",
        ),
        pytest.param(
            mounted(V2, "0::/a/b", {"a/b/cpu.max": "100000 100000", "a/cpu.max": "400000 100000"}),
            1,
            id="the smallest counts",
        ),
        pytest.param(
            mounted(V2, "0::/a", {"a/cpu.max": "max 100000", "b/cpu.max": "100000 100000"}),
            None,
            id="another group's limit",
        ),
        pytest.param(
            mounted(V2, "0::/box/c1/job", {"job/cpu.max": "300000 100000"}, shown="/box/c1"),
            3,
            id="a container that sees paths of the machine",
        ),
        pytest.param(
            mounted(V2, "0::/box/c1", {"cpu.max": "300000 100000"}),
            3,
            id="a path that exists outside only",
        ),
        pytest.param(
            mounted(V2, "0::/../../other", {"cpu.max": "300000 100000"}),
            3,
            id="a path above the container",
        ),
        pytest.param(
            mounted(V2, "0::/", {"cpu.max": "200000 100000"}, mount="/my groups"),
            2,
            id="a mount point with a space",
        ),
        pytest.param(mounted(V1, "4:cpu,cpuacct:/", v1("", "-1")), None, id="v1, unlimited"),
        pytest.param(mounted(V1, "4:cpu,cpuacct:/", v1("", "200000")), 2, id="v1, a container"),
        pytest.param(
            mounted(V1, "4:cpu,cpuacct:/a/b", v1("a/b/", "-1") | v1("a/", "150000")),
            1.5,
            id="v1, the group above has the limit",
        ),
        pytest.param(
            mounted(V1, "4:cpu:/docker/x", v1("", "400000"), shown="/docker/x"),
            4,
            id="v1, a container that sees paths of the machine",
        ),
        pytest.param(
            mounted(V1, "4:memory:/a", v1("a/", "200000")), None, id="v1, in no group of cpu"
        ),
        pytest.param(mounted(V2, "0::/", {"cpu.max": "many few"}), None, id="not numbers"),
        pytest.param(mounted(V2, "0::/", {"cpu.max": "100000 0"}), None, id="a period of 0"),
        pytest.param({"proc/self/mountinfo": "x - y\n\n1 2"}, None, id="another format"),
    ],
)
def test_the_quota_of_control_groups(
    files: Mapping[str, str], cpus: float | None, tmp_path: Path
) -> None:
    assert cpu_quota(fake(tmp_path, files)) == cpus


def test_both_versions_side_by_side(tmp_path: Path) -> None:
    files = mounted(V1, "4:cpu:/a\n0::/", v1("a/", "300000"))
    files["proc/self/mountinfo"] += "\n" + V2.format(shown="/", mount="/two")
    assert cpu_quota(fake(tmp_path, files)) == 3
    assert cpu_quota(fake(tmp_path, {"two/cpu.max": "200000 100000"})) == 2


def test_hyperthreads_of_one_core_count_once(tmp_path: Path) -> None:
    root = fake(tmp_path, hyperthreads(64))
    assert physical_cores(set(range(64)), root) == 32
    assert physical_cores({0, 1, 2, 3}, root) == 4
    assert physical_cores({0, 32}, root) == 1
    # The name in old kernels.
    for file in root.rglob("core_cpus_list"):
        file.rename(file.with_name("thread_siblings_list"))
    assert physical_cores(set(range(64)), root) == 32
    # Where the files are missing, every CPU is taken for a core.
    shutil.rmtree(root / "sys")
    assert physical_cores({0, 32}, root) == 2


@pytest.mark.parametrize(
    ("allowed", "quota", "cores"),
    [
        (range(64), "max 100000", 32),
        (range(64), "200000 100000", 2),
        # Rounded down, but not to none.
        (range(64), "390000 100000", 3),
        (range(64), "50000 100000", 1),
        (range(4), "3200000 100000", 4),
        ((5, 37), "max 100000", 1),
    ],
)
def test_a_machine_of_64_hyperthreads(
    allowed: range, quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fake(tmp_path, hyperthreads(64) | mounted(V2, "0::/", {"cpu.max": quota}))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(allowed), raising=False)
    assert usable_cores(root) == cores
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert own_cores(root) == max(1, cores // 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "two")
    assert own_cores(root) == cores


def test_systems_without_affinity_say_their_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert usable_cores() == 10
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Sets the number of cores that this process may use. Nothing else limits the threads."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    yield lambda count: monkeypatch.setattr("wgan_cli.cores.usable_cores", lambda *_: count)
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("count", "environment", "threads"),
    [
        (6, {}, 6),
        (64, {}, 16),
        (6, {"OMP_NUM_THREADS": "4"}, 4),
        (6, {"OMP_NUM_THREADS": "1"}, 1),
        (6, {"OMP_NUM_THREADS": " 3,2"}, 3),
        (6, {"OMP_NUM_THREADS": "60"}, 6),
        # OpenMP ignores these, too.
        (6, {"OMP_NUM_THREADS": "many"}, 6),
        (6, {"OMP_NUM_THREADS": "0"}, 6),
        # torchrun's own default is no wish of the user's.
        (6, {"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}, 3),
        (6, {"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "2"}, 2),
        (2, {"LOCAL_WORLD_SIZE": "4", "OMP_NUM_THREADS": "1"}, 1),
    ],
)
def test_threads_for_work_of_any_size(
    count: int,
    environment: Mapping[str, str],
    threads: int,
    cores: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cores(count)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert most_threads() == threads


def test_more_work_has_more_threads() -> None:
    assert [useful_threads(work) for work in (0, 1e8, 5e8, 5e9, float("inf"))] == [2, 4, 8, 16, 16]


GAUSSIANS = ["experiment=wgan_gp_25gaussians", "threads=null"]
RESNET = ["dataset=cifar10", "model=resnet", "constraint=gradient_penalty", "optimizer=adam"]


@pytest.mark.parametrize(
    ("words", "shape", "threads"),
    [
        ([], (1, 8, 8), 2),
        (GAUSSIANS, (2,), 2),
        (["dataset=mnist"], (1, 28, 28), 4),
        (["dataset=mnist", "batch_size=512"], (1, 28, 28), 8),
        (["dataset=mnist", "model=dcgan"], (1, 28, 28), 8),
        (["dataset=cifar10", "model=dcgan"], (3, 32, 32), 8),
        (["dataset=cifar10", "model=dcgan"], (3, 64, 64), 16),
        (RESNET, (3, 32, 32), 16),
        (["model.critic._target_=conftest.composed"], (1, 8, 8), 16),
    ],
)
def test_the_table_of_threads_by_work(
    words: list[str], shape: tuple[int, ...], threads: int, cores: Callable[[int], None]
) -> None:
    cores(1)
    config, _ = composed([*words, "device=cpu"])
    state = torch.get_rng_state()
    for count in (1, 2, 3, 64):
        cores(count)
        assert training_threads(config, "cpu", shape, None) == min(count, threads)
        assert training_threads(config, "cuda", shape, None) == min(count, 16)
    assert torch.equal(torch.get_rng_state(), state)


def test_each_rank_counts_its_share_of_the_batch(
    cores: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cores(64)
    config, _ = composed(["dataset=mnist", "device=cpu"])
    variables = {"RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in {**variables, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert training_threads(config, "cpu", (1, 28, 28), None) == 2


def test_conditional_networks_are_counted_with_their_classes(cores: Callable[[int], None]) -> None:
    cores(64)
    config, _ = composed(["dataset=mnist", "conditional=true", "device=cpu"])
    assert training_threads(config, "cpu", (1, 28, 28), 10) == 4


def test_a_run_has_threads_for_its_work_and_keeps_them(
    cores: Callable[[int], None], here: Path
) -> None:
    words = [word for word in TINY if not word.startswith(("steps", "threads"))]
    words += ["metrics=[]", "checkpoint_every=1"]
    cores(8)
    assert run([*words, "steps=1", "hydra.run.dir=first"]) == 0
    assert threads_of(here / "first") == torch.get_num_threads() == 2
    cores(1)
    assert run(["resume=first", "steps=2"]) == 0
    assert threads_of(here / "first") == torch.get_num_threads() == 2
    assert run([*words, "steps=1", "hydra.run.dir=second"]) == 0
    assert threads_of(here / "second") == torch.get_num_threads() == 1


def test_evaluations_and_samples_use_all_cores(cores: Callable[[int], None], here: Path) -> None:
    words = [word for word in TINY if not word.startswith(("steps", "threads"))]
    assert run([*words, "metrics=[]", "steps=1", "hydra.run.dir=first", "threads=1"]) == 0
    for command, options in (
        (evaluate.run, ["--n", "8", "--metrics", "wasserstein/exact"]),
        (sample.run, ["--n", "2"]),
    ):
        for count in (3, 1):
            cores(count)
            assert command(["first", *options]) == 0
            assert torch.get_num_threads() == count


def threads_of(folder: Path) -> int:
    return yaml.safe_load((folder / "config.yaml").read_text())["threads"]


def test_jobs_that_run_at_once_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    loky = pytest.importorskip("joblib.externals.loky")
    monkeypatch.setattr("wgan_cli.commands.sweep_workers.usable_cores", lambda: 1)
    # Set first, so that the test's end removes what is set below.
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "")
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    share_cores(Launcher.SLURM, 3)
    assert "LOKY_MAX_CPU_COUNT" not in os.environ
    share_cores(Launcher.JOBLIB, 3)
    assert loky.cpu_count() == 1
    share_cores(Launcher.LOCAL, 3)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    monkeypatch.setattr("wgan_cli.commands.sweep_workers.usable_cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS")
    share_cores(Launcher.LOCAL, 3)
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "5")
    share_cores(Launcher.JOBLIB, 3)
    assert os.environ["LOKY_MAX_CPU_COUNT"] == "5"


needs_two = pytest.mark.skipif(
    "sched_getaffinity" not in dir(os) or usable_cores() < 2, reason="needs Linux and two cores"
)


def threads_of_a_real_run(folder: Path, *before: str) -> int:
    """The threads that a run of the real command chose, started by the words `before`."""
    words = [word for word in TINY if not word.startswith("threads")]
    command = [*before, sys.executable, "-m", "wgan_cli", *words, "steps=1", "metrics=[]"]
    free = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [*command, "hydra.run.dir=run"],
        cwd=folder,
        env={**free, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return threads_of(folder / "run")


@needs_two
@pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset")
def test_taskset_leaves_one_core(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    assert threads_of_a_real_run(tmp_path, "taskset", "-c", str(core)) == 1


@pytest.fixture
def group_of_one_cpu() -> Iterator[Path]:
    """A control group inside another that may use one CPU; skips where none can be made."""
    version1, version2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    parent = (version1 if version1.is_dir() else version2) / f"wgan-train-test-{os.getpid()}"
    group = parent / "inner"
    try:
        group.mkdir(parents=True)
        if version1.is_dir():
            (parent / "cpu.cfs_quota_us").write_text("100000")
        else:
            (parent / "cpu.max").write_text("100000 100000")
        yield group
    except OSError as error:
        pytest.skip(f"needs a writable control group of CPU time: {error}")
    finally:
        for folder in (group, parent):
            if folder.is_dir():
                folder.rmdir()


@needs_two
def test_a_control_group_leaves_one_core(group_of_one_cpu: Path, tmp_path: Path) -> None:
    enter = 'echo $$ > "$0" && exec "$@"'
    started_by = ["sh", "-c", enter, str(group_of_one_cpu / "cgroup.procs")]
    assert threads_of_a_real_run(tmp_path, *started_by) == 1
