from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY, Command, status_of

from wgan_cli.commands.train import run

OWN_MODULE = """
class Generator:
    pass


def make_critic(sample_shape, width):
    raise AssertionError("built in spite of a refusal")


not_callable = 3
"""

# Words, and what the refusal must name: the key, the allowed values, the nearest name.
CONFIG_MISTAKES = {
    "unknown key": (["clp=0.1"], ["clp", "Did you mean clip?"]),
    "unknown key, two slips": (["bach_sise=3"], ["bach_sise", "Did you mean batch_size?"]),
    "unknown key in a group": (["optimizer.learning=1"], ["optimizer.learning"]),
    "misspelt key in a group": (["optimizer.lrr=1"], ["optimizer.lrr", "optimizer.lr?"]),
    "misspelt nested key": (["optimizer.critic.lrr=1"], ["optimizer.critic.lr?"]),
    "key of another option": (["optimizer.betas=[0,0.9]"], ["optimizer.betas"]),
    "key without its group": (["lr=1e-3"], ["lr", "Did you mean optimizer.lr?"]),
    "added key": (["+clp=0.1"], ["clp", "Did you mean clip?"]),
    "added key in a group": (["+model.critic.widht=3"], ["widht", "model.critic.width?"]),
    "removed key": (["~batch_size"], ["batch_size"]),
    "unknown option": (["loss=hing"], ["loss=hing", "wasserstein", "gan", "Did you mean hinge?"]),
    "unknown data set": (["dataset=mnst"], ["dataset=mnst", "digits", "Did you mean mnist?"]),
    "unknown experiment": (["experiment=papper"], ["papper", "Did you mean paper?"]),
    "unknown group": (["optimiser=adam"], ["optimiser", "Did you mean optimizer?"]),
    "no option": (["loss=null"], ["loss"]),
    "two options": (["loss=[hinge,gan]"], ["loss"]),
    "text for a whole number": (["steps=many"], ["steps", "whole number", "many"]),
    "fraction for a whole number": (["batch_size=1.5"], ["batch_size", "whole number", "1.5"]),
    "truth for a whole number": (["batch_size=true"], ["batch_size", "number"]),
    "text for a number": (["optimizer.lr=fast"], ["optimizer.lr", "number", "fast"]),
    "text for a number, one network": (["optimizer.critic.lr=fast"], ["optimizer.critic.lr"]),
    "text for a width": (["model.generator.width=wide"], ["model.generator.width"]),
    "text for a truth": (["constraint.exempt_normalization=perhaps"], ["true or false"]),
    "unknown norm": (
        ["model=dcgan", "model.critic.norm=bach"],
        ["none, batch, layer, group", "Did you mean batch?"],
    ),
    "number for a list": (["metrics=3"], ["metrics", "list"]),
    "null where a value is needed": (["batch_size=null"], ["batch_size"]),
    "node for a number": (["clip={a:1}"], ["clip", "number"]),
    "n_critic=0": (["n_critic=0"], ["n_critic", "at least 1", "not 0"]),
    "clip=-1": (["clip=-1"], ["clip", "above 0", "not -1"]),
    "clip=0": (["clip=0"], ["clip", "above 0"]),
    "clip=nan": (["clip=nan"], ["clip", "nan"]),
    "clip=inf": (["clip=inf"], ["clip", "inf"]),
    "lr=nan": (["optimizer.lr=nan"], ["optimizer.lr", "nan"]),
    "batch_size=100000": (["batch_size=100000"], ["batch_size=100000", "at most 1438"]),
    "batch_size=0": (["batch_size=0"], ["batch_size", "at least 1"]),
    "steps=0": (["steps=0"], ["steps", "at least 1"]),
    "steps=-5": (["steps=-5"], ["steps", "at least 1"]),
    "seed=-1": (["seed=-1"], ["seed", "at least 0"]),
    "ema=1": (["ema=1"], ["ema", "below 1"]),
    "log_every=0": (["log_every=0"], ["log_every", "at least 1"]),
    "warm-up without updates": (["critic_warmup.n_critic=0"], ["critic_warmup.n_critic"]),
    "one beta": (["optimizer=adam", "optimizer.betas=[0.5]"], ["optimizer.betas", "two numbers"]),
    "beta of 1": (["optimizer=adam", "optimizer.betas=[0,1]"], ["optimizer.betas", "below 1"]),
    "unknown decay": (["decay.kind=liner"], ["decay.kind", "cosine", "Did you mean linear?"]),
    "unknown precision": (["precision=fp16"], ["precision", "auto, fp32, bf16", "fp16"]),
    "unknown device": (["device=tpu"], ["device", "cpu, cuda", "tpu"]),
    "unknown metric": (
        ["metrics=[wasserstein/exakt]"],
        ["metrics", "wasserstein/exakt", "Did you mean wasserstein/exact?"],
    ),
    "pixel metric on points": (
        ["dataset=gaussians_ring", "metrics=[metrics/precision_pixel]"],
        ["metrics", "metrics/precision_pixel", "gaussians_ring"],
    ),
    "a Lipschitz critic with clipping": (
        ["model=lipschitz_mlp"],
        ["model=lipschitz_mlp", "clipping", "constraint=none"],
    ),
    "an odd Lipschitz critic": (
        ["model=lipschitz_mlp", "constraint=none", "model.critic.width=7"],
        ["model.critic.width", "a multiple of 2", "not 7"],
    ),
    "clip without clipping": (["constraint=none", "clip=0.5"], ["clip=0.5", "constraint=clip"]),
    "an experiment's clip without clipping": (
        ["experiment=paper", "constraint=none"],
        ["clip=0.01", "constraint=clip"],
    ),
    "decay.steps without decay": (["decay.kind=none", "decay.steps=10"], ["decay.steps=10"]),
    "many values without -m": (["clip=0.1,0.2"], ["clip=0.1,0.2", "-m"]),
    "many options without -m": (["loss=hinge,gan"], ["loss=hinge,gan", "-m"]),
    "no equals sign": (["clip"], ["clip", "KEY=VALUE"]),
    "open bracket": (["metrics=[critic/lipschitz"], ["metrics=[critic/lipschitz", "KEY=VALUE"]),
    "no key": (["=3"], ["=3", "KEY=VALUE"]),
    "missing own folder": (["--config-dir", "nowhere"], ["--config-dir", "nowhere"]),
    "missing own config": (["--config-name", "tren"], ["tren"]),
    "unknown flag": (["--multi-run"], ["--multi-run", "--help"]),
    "flag without its value": (["--trust"], ["--trust"]),
    "one run resumed many times": (["-m", "resume=outputs/a", "seed=1,2"], ["resume=", "-m"]),
    "unknown key in a sweep": (["-m", "clp=0.1,0.2"], ["clp", "Did you mean clip?"]),
    "wrong type in a sweep": (["-m", "clip=0.1,abc"], ["clip", "abc"]),
    "unknown option in a sweep": (["-m", "loss=gan,hing"], ["hing", "Did you mean hinge?"]),
}


@pytest.fixture
def own_module(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = here / "modules"
    modules.mkdir()
    (modules / "own_refused.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(str(modules))


def with_tiny(words: list[str]) -> list[str]:
    """What is not refused in spite of its mistake ends soon."""
    return ["-m", *TINY, *words[1:]] if words[0] == "-m" else [*TINY, *words]


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


@pytest.mark.parametrize("mistake", CONFIG_MISTAKES)
def test_a_config_mistake_is_refused_with_exit_2(
    mistake: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, named = CONFIG_MISTAKES[mistake]
    assert_refused(with_tiny(words), 2, named, here, capsys)


@pytest.mark.parametrize(
    "words", [["n_critic=0"], ["los=hinge"], ["constraint=none", "clip=0.5"], ["-m", "clip=abc,1"]]
)
def test_the_shell_gets_exit_2_at_once(words: list[str], wgan: Command, tmp_path: Path) -> None:
    start = time.perf_counter()
    answer = wgan(*words)
    seconds = time.perf_counter() - start
    assert answer.returncode == 2
    assert_plain(answer.stdout, answer.stderr)
    assert seconds < 3
    assert left_in(tmp_path) == []


def test_a_config_mistake_is_refused_without_importing_torch(tmp_path: Path) -> None:
    mistakes = [with_tiny(words) for words, _ in CONFIG_MISTAKES.values()]
    code = (
        "import sys\n"
        "from wgan_cli.commands.train import run\n"
        f"for words in {mistakes!r}:\n"
        "    sys.argv = ['wgan-train']\n"
        "    run(words)\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr


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


def test_convolutions_on_points_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, "dataset=gaussians_ring", "model=dcgan"]
    assert_refused(words, 2, ["model=dcgan", "model=mlp"], here, capsys)


def test_too_many_evaluation_samples_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "eval_samples=5000"]
    assert_refused(words, 2, ["eval_samples=5000", "at most 179"], here, capsys)


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


def test_missing_data_is_exit_3_with_the_path_and_what_to_do(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "dataset=mnist", "dataset.download=false", "dataset.root=nowhere"]
    named = [str(here / "nowhere"), "dataset.root", "dataset.download=true"]
    assert_refused(words, 3, named, here, capsys)


def test_a_failed_download_is_exit_3_with_the_path_and_what_to_do(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*arguments: object, **words: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr("torchvision.datasets.MNIST", unreachable)
    assert run([*TINY, "dataset=mnist"]) == 3
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    for part in (str(here / "data"), "network", "dataset.download=false"):
        assert part in stderr
    assert not (here / "outputs").exists()


def test_a_data_root_that_is_a_file_is_exit_3(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "data").write_text("not a folder")
    words = [*TINY, "dataset=mnist"]
    assert_refused(words, 3, ["dataset.root=data", "folder"], here, capsys)


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


def test_resuming_nothing_is_exit_4(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "empty").mkdir()
    (here / "notes.txt").write_text("no checkpoint")
    for what in ("nowhere", "empty", "notes.txt"):
        assert_refused([*TINY, f"resume={what}"], 4, [f"resume={what}"], here, capsys)


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


@pytest.mark.parametrize("words", [["outputs"], ["outputs", "-m", "seed=1,2"]])
def test_outputs_that_cannot_be_written_are_exit_7(
    words: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken, *more = words
    (here / taken).write_text("in the way")
    assert_refused([*more, *TINY] if more else TINY, 7, [taken], here, capsys)


def test_a_run_folder_that_is_a_file_is_exit_7(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "taken").write_text("in the way")
    assert_refused([*TINY, "hydra.run.dir=taken"], 7, ["taken"], here, capsys)
    assert_refused([*TINY, "hydra.run.dir=taken/inside"], 7, ["taken"], here, capsys)


def test_a_run_that_diverges_is_exit_5_and_keeps_its_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["constraint=none", "optimizer=sgd", "optimizer.lr=1e30", "steps=20", "log_every=1"]
    assert run([*TINY, *words, "hydra.run.dir=wild"]) == 5
    answer = capsys.readouterr()
    assert "Traceback" not in answer.err
    assert "NaN or infinite" in answer.err
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

    monkeypatch.setattr("wgan_cli.training.callbacks.saving.save_checkpoint", runs_out)
    assert run([*TINY, "hydra.run.dir=full"]) == code
    assert "Traceback" not in capsys.readouterr().err
    status = status_of(here / "full")
    assert (status["state"], status["exit_code"]) == ("failed", code)


def test_a_defect_is_exit_1_with_its_traceback(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def defect(*arguments: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("wgan_cli.training.callbacks.saving.save_checkpoint", defect)
    assert run([*TINY, "hydra.run.dir=broken"]) == 1
    assert "Traceback" in capsys.readouterr().err
    status = status_of(here / "broken")
    assert (status["state"], status["exit_code"]) == ("failed", 1)
