from __future__ import annotations

import errno
import fcntl
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, Command, status_of

from wgan_cli.commands.train import run
from wgan_cli.config import configs_folder

OWN_MODULE = """
class Generator:
    pass


def make_critic(sample_shape, width):
    raise AssertionError("built in spite of a refusal")


not_callable = 3
"""


@pytest.fixture
def own_module(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = here / "modules"
    modules.mkdir()
    (modules / "own_refused.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(str(modules))


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_plain(stdout: str, stderr: str) -> None:
    """One or two sentences, in one line, and no traceback."""
    assert stdout == ""
    assert stderr.startswith("wgan-train: ")
    assert "Traceback" not in stderr
    assert "Error" not in stderr
    assert "HYDRA_FULL_ERROR" not in stderr
    assert len(stderr.splitlines()) == 1, stderr
    assert len(stderr) < 500, stderr


def assert_refused(
    words: list[str],
    code: int,
    named: list[str],
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = left_in(here)
    capsys.readouterr()
    assert run(words) == code
    answer = capsys.readouterr()
    assert_plain(answer.out, answer.err)
    for part in named:
        assert part in answer.err
    assert left_in(here) == before


def test_a_mistake_in_a_users_own_option_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = here / "mine" / "experiment" / "thesis.yaml"
    option.parent.mkdir(parents=True)
    words = [*TINY, "experiment=thesis", "--config-dir", "mine"]
    for text, named in (
        ("# @package _global_\nn_critics: 3\n", ["n_critics", "Did you mean n_critic?"]),
        ("# @package _global_\nclip: -3\n", ["clip", "above 0"]),
        ("# @package _global_\nclip: [\n", ["thesis.yaml"]),
        ("# @package _global_\ndefaults:\n  - override /loss: hing\n", ["hing", "hinge"]),
    ):
        option.write_text(text)
        assert_refused(words, 2, named, here, capsys)


@pytest.mark.parametrize(
    ("available", "words", "named"),
    [
        (0, ["device=cuda"], ["device=cuda", "none"]),
        (0, ["device=cuda:1"], ["device=cuda:1", "none"]),
        (1, ["device=cuda:3"], ["device=cuda:3", "1"]),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    available: int,
    words: list[str],
    named: list[str],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    tiny = [word for word in TINY if not word.startswith("device")]
    assert_refused([*tiny, *words], 2, named, here, capsys)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["model.generator._target_=nowhere.Net"], ["model.generator", "nowhere"]),
        (["model.generator._target_=own_refused.Missing"], ["own_refused.Missing"]),
        (["model.critic._target_=own_refused.not_callable"], ["own_refused.not_callable"]),
        (
            [
                "model.critic._target_=own_refused.make_critic",
                "~model.critic.depth",
                "+model.critic.gain=2",
            ],
            ["model.critic", "gain"],
        ),
        (["loss._target_=nowhere"], ["loss", "nowhere"]),
        (
            ["optimizer._target_=torch.optim.Adadelta", "+optimizer.roh=0.8", "optimizer.lr=1"],
            ["optimizer", "torch.optim.Adadelta"],
        ),
        (["model.generator._target_="], ["model.generator._target_"]),
    ],
)
def test_an_own_target_that_cannot_be_built_is_refused(
    words: list[str],
    named: list[str],
    here: Path,
    own_module: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Importing it may leave its byte code.
    sys.modules.pop("own_refused", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        assert_refused([*TINY, *words], 2, named, here, capsys)


def test_a_failed_download_is_exit_3_with_the_path_and_what_to_do(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(root: str, **words: object) -> None:
        # What torchvision makes, and says, in a line each.
        (Path(root) / "MNIST" / "raw").mkdir(parents=True)
        raise RuntimeError("Error downloading train.gz:\nTried https://there/, got:\n<no route>\n")

    monkeypatch.setattr("torchvision.datasets.MNIST", unreachable)
    assert run([*TINY, "dataset=mnist"]) == 3
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    tried = "Error downloading train.gz: Tried https://there/, got: <no route>"
    for part in (str(here / "data"), tried, "network", "dataset.download=false"):
        assert part in stderr
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("count", [4, 12])
def test_too_few_images_are_exit_3(
    count: int, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Few:
        data = torch.zeros(count, 28, 28, dtype=torch.uint8)
        targets = data[:, 0, 0]

        def __init__(self, *arguments: object, **words: object) -> None:
            pass

    monkeypatch.setattr("torchvision.datasets.MNIST", Few)
    assert_refused([*TINY, "dataset=mnist"], 3, ["mnist", str(count)], here, capsys)


def test_resuming_a_run_without_checkpoints_is_exit_4(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*TINY, "hydra.run.dir=first"]) == 0
    for path in (here / "first" / "checkpoints").iterdir():
        path.unlink()
    assert_refused(["resume=first", "steps=4"], 4, ["resume=first"], here, capsys)


def test_a_folder_that_holds_a_run_is_exit_8(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*TINY, "hydra.run.dir=first"]) == 0
    before = {path: path.stat().st_mtime_ns for path in (here / "first").rglob("*")}
    words = [*TINY, "hydra.run.dir=first", "seed=1"]
    assert_refused(words, 8, ["first", "resume=first"], here, capsys)
    assert {path: path.stat().st_mtime_ns for path in (here / "first").rglob("*")} == before


def test_a_folder_that_another_process_writes_to_is_exit_8(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*TINY, "hydra.run.dir=first"]) == 0
    before = {path: path.stat().st_mtime_ns for path in (here / "first").rglob("*")}
    with (here / "first" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        capsys.readouterr()
        assert run(["resume=first", "steps=4"]) == 8
        stderr = capsys.readouterr().err
        assert "first" in stderr
        assert "process" in stderr
        assert "Traceback" not in stderr
    assert {path: path.stat().st_mtime_ns for path in (here / "first").rglob("*")} == before
    assert run(["resume=first", "steps=4"]) == 0


@pytest.mark.exhaustive
def test_a_sweep_leaves_alone_the_job_that_another_process_trains(here: Path) -> None:
    words = [*TINY, "seed=1,2", "hydra.sweep.dir=sweep", "-m"]
    assert run(words) == 0
    job = here / "sweep" / "0"
    # As it is while the other process trains.
    status = job / "status.json"
    status.write_text(status.read_text().replace('"finished"', '"running"').replace(": 0,", ": 1,"))
    newest = sorted((job / "checkpoints").iterdir())[-1]
    newest.rename(newest.with_name("step_00000001.pt"))
    before = {path: path.stat().st_mtime_ns for path in job.rglob("*")}
    with (job / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run(words) == 1
    assert {path: path.stat().st_mtime_ns for path in job.rglob("*")} == before


def test_a_callback_of_hydras_that_cannot_be_made_is_exit_2(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*TINY, "+hydra.callbacks.mine._target_=no_package.Mine"]) == 2
    answer = capsys.readouterr().err
    assert "no_package.Mine" in answer
    assert len(answer.splitlines()) == 1
    assert list(here.rglob("*.*")) == []


def test_a_run_that_diverges_is_exit_5_and_keeps_its_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["constraint=none", "optimizer=sgd", "optimizer.lr=1e6", "steps=20", "log_every=1"]
    assert run([*TINY, *words, "hydra.run.dir=wild"]) == 5
    answer = capsys.readouterr()
    assert "Traceback" not in answer.err
    assert "became" in answer.err
    status = status_of(here / "wild")
    assert (status["state"], status["exit_code"]) == ("diverged", 5)
    assert status["message"] in answer.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 7),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."), 6),
        (MemoryError(), 6),
    ],
    ids=["full disk", "full device", "full machine"],
)
def test_what_runs_out_in_training_has_its_own_exit_code_and_no_traceback(
    error: Exception,
    code: int,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def runs_out(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("wgan_cli.training.callbacks.checkpoints.save_checkpoint", runs_out)
    assert run([*TINY, "hydra.run.dir=full"]) == code
    assert "Traceback" not in capsys.readouterr().err
    status = status_of(here / "full")
    assert (status["state"], status["exit_code"]) == ("failed", code)


def test_a_defect_is_exit_1_with_its_traceback(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def defect(*arguments: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("wgan_cli.training.callbacks.checkpoints.save_checkpoint", defect)
    assert run([*TINY, "hydra.run.dir=broken"]) == 1
    assert "Traceback" in capsys.readouterr().err
    status = status_of(here / "broken")
    assert (status["state"], status["exit_code"]) == ("failed", 1)


@pytest.mark.parametrize(
    "text",
    [
        "model: &a\n  x: *a\n",
        "defaults:\n  - loop\n  - _self_\n",
        "\n".join(" " * depth + "a:" for depth in range(150)),
        "a: " + "[" * 3000 + "]" * 3000,
        "clip: ${ema}\nema: ${clip}\n",
    ],
    ids=["aliases", "defaults", "levels", "brackets", "references"],
)
def test_own_options_in_a_circle_or_too_deep_are_exit_2(
    text: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "own" / "experiment").mkdir(parents=True)
    (here / "own" / "experiment" / "loop.yaml").write_text(f"# @package _global_\n{text}")
    assert run([*TINY, "--config-dir", "own", "experiment=loop"]) == 2
    answer = capsys.readouterr().err
    assert "Traceback" not in answer
    assert len(answer.splitlines()) == 1
    assert not (here / "outputs").exists()


def test_only_a_shell_may_ask_for_completions(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COMP_LINE", raising=False)
    assert run(["-sc", "query=bash"]) == 2
    assert "the shell itself" in capsys.readouterr().err


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_a_callback_by_a_resolver_of_hydras_is_exit_2(
    multirun: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    word = "++hydra.callbacks.x._target_='${hydra:runtime.cwd}'"
    assert run([*TINY, *multirun, word]) == 2
    answer = capsys.readouterr().err
    assert "Traceback" not in answer
    assert "hydra" in answer
    assert not (here / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--cfg", "job", "--package", "nowhere"], 2, "nowhere"),
        (["--cfg", "job", "--resolve", "device=${x}"], 2, "x"),
        (["steps=1", "--hydra-help"], 0, ""),
        (["-m", "loss=glob(h*)", "seed=range(1,3)", "--cfg", "job", "--package", "loss"], 0, ""),
    ],
)
def test_what_hydra_shows_by_its_own_flags(
    words: list[str], code: int, says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == code
    answer = capsys.readouterr()
    assert "Traceback" not in answer.err
    assert says in answer.err
    assert bool(answer.out) == (code == 0)


def test_hydra_tells_where_it_looks_for_configs(wgan: Command) -> None:
    # In a process of its own, as Hydra sets up the root logger for this.
    answer = wgan("steps=1", "--info", "searchpath")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "Config search path" in answer.stdout


def test_a_sweep_over_options_by_a_pattern_takes_own_ones_too(here: Path) -> None:
    (here / "own" / "loss").mkdir(parents=True)
    shipped = configs_folder() / "loss" / "hinge.yaml"
    (here / "own" / "loss" / "hinge_too.yaml").write_text(shipped.read_text())
    assert run([*TINY, "-m", "--config-dir", "own", "loss=glob(hin*)", "hydra.sweep.dir=s"]) == 0
    words = [(here / "s" / job / "overrides.yaml").read_text() for job in "01"]
    assert ["loss=hinge\n" in words[0], "loss=hinge_too\n" in words[1]] == [True, True]
    assert not (here / "s" / "2").exists()
