"""`wgan-search` as it is typed: spaces, folders, refusals, and real runs as trials."""

from __future__ import annotations

import importlib.util
import json
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from conftest import TINY, Command, metrics_of, status_of

from benchmarks.forked_commands import CommandServer
from wgan_cli.commands import search as command
from wgan_cli.commands.train import run as train
from wgan_cli.search.folder import SearchFolder
from wgan_cli.search.space import read_search
from wgan_cli.search.study import read_study
from wgan_cli.waiting.policy import POLICY

WORDS = [*TINY, "eval_samples=8", "eval_every=1", "log_every=1", "metrics=[wasserstein/exact]"]
SPACE = {
    "space": {"clip": {"low": 0.01, "high": 0.1}, "n_critic": {"low": 1, "high": 2}},
    "words": [word for word in WORDS if not word.startswith("n_critic")],
    "trials": 3,
    "pruner": {"name": "none"},
}
# A run of which only what a search reads is there.
QUICK = """
import json, os, sys
folder, words = sys.argv[1], dict(word.split("=", 1) for word in sys.argv[2:])
os.makedirs(folder, exist_ok=True)
if "seed" in words:
    sys.exit("wgan-train: this seed is unlucky.")
with open(os.path.join(folder, "metrics.jsonl"), "w") as file:
    file.write(json.dumps({"step": 2, "wasserstein/exact": float(words["clip"])}))
"""


@pytest.fixture
def tiny(here: Path) -> str:
    (here / "tiny.yaml").write_text(yaml.safe_dump(SPACE))
    return "tiny.yaml"


@pytest.fixture
def quick(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = here / "quick.py"
    script.write_text(QUICK)

    def made(words: Sequence[str], folder: Path, **_: object) -> list[str]:
        return [sys.executable, "-S", str(script), str(folder), *words]

    monkeypatch.setattr(command, "_command", made)


def test_a_search_from_its_first_line_to_its_last(
    tiny: str, quick: None, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run([tiny]) == 0
    (folder,) = (here / "outputs" / "search").iterdir()
    assert folder.name.startswith("tiny_")
    shown = capsys.readouterr().out
    facts = read_study(folder)
    assert facts is not None
    assert facts.best is not None
    assert shown.startswith(f"3 trials in outputs/search/{folder.name}\n")
    assert "3 trials: 3 finished, 0 pruned, 0 failed. wasserstein/exact, the best first:" in shown
    (again,) = (line for line in shown.splitlines() if line.startswith("  to repeat it"))
    words = shlex.split(again.partition("it")[2])
    assert words[0] == "wgan-train"
    assert f"clip={facts.best.params['clip']}" in words
    assert set(SPACE["words"]) < set(words)
    # Its folder names it, too, and keeps the total that was asked for.
    assert command.run([str(folder), "--trials", "5"]) == 0
    assert command.run([str(folder)]) == 0
    assert command.run([tiny, "--dir", str(folder)]) == 0
    assert "\n5 trials: 5 finished" in capsys.readouterr().out
    assert command.run([str(folder), "--trials", "2"]) == 0
    assert capsys.readouterr().out.startswith("5 trials in ")
    assert len((read_study(folder) or facts).trials) == 5


def test_the_first_trial_is_the_defaults(tiny: str, quick: None, here: Path) -> None:
    space = {
        "clip": {"low": 0.01, "high": 0.1, "log": True},
        "n_critic": {"low": 1, "high": 3},
        "latent_dim": {"low": 90, "high": 100, "step": 5},
        "batch_size": {"low": 5, "high": 15, "step": 10},
        "optimizer.critic.lr": {"low": 1e-5, "high": 1e-2, "log": True},
        "ema": {"low": 0.1, "high": 0.2},
        "loss": {"choices": ["hinge", "wasserstein"]},
    }
    own = {**SPACE, "space": space, "trials": 2, "words": ["optimizer.lr=0.0003"]}
    Path("own.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    assert command.run(["own.yaml", "--dir", "mine"]) == 0
    facts = read_study(Path("mine"))
    assert facts is not None
    first, second = (trial.params for trial in facts.trials)
    # What the digits recommend, what the words say, and what nobody does.
    usual = {"clip": 0.013, "n_critic": 1, "optimizer.critic.lr": 0.0003, "loss": "wasserstein"}
    assert first.items() >= usual.items()
    assert not second.items() >= usual.items()
    # The others' defaults lie outside, or between two steps.
    assert first["latent_dim"] in (90, 95, 100)
    assert first["batch_size"] in (5, 15)
    assert 0.1 <= first["ema"] <= 0.2


def test_typed_words_are_the_same_for_every_trial(tiny: str, quick: None, here: Path) -> None:
    assert command.run([tiny, "n_critic=2", "--dir", "mine", "batch_size=8"]) == 0
    saved = yaml.safe_load((here / "mine" / "search.yaml").read_text())
    assert saved["words"][-2:] == ["n_critic=2", "batch_size=8"]
    assert list(saved["space"]) == ["clip"]


def test_where_no_trial_finishes_the_exit_code_is_1(
    tiny: str, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run([tiny, "seed=7", "--trials", "2"]) == 1
    shown = capsys.readouterr().out
    assert "#1   failed    this seed is unlucky." in shown
    assert "2 trials: 0 finished, 0 pruned, 2 failed" in shown


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["digit"], 2, "Did you mean digits?"),
        (["nowhere.yaml"], 2, "nowhere.yaml: there is no such file."),
        (["."], 4, "holds no search"),
        (["tiny.yaml", "--trials", "0"], 2, "--trials 0: at least 1."),
        (["tiny.yaml", "clip=0.01,0.02"], 2, "one value for all trials"),
        (["tiny.yaml", "stpes=3"], 2, "Did you mean steps?"),
        (["tiny.yaml", "hydra.run.dir=x"], 2, "chooses this itself"),
        (["resume.yaml"], 2, "resume: wgan-search chooses this itself"),
        (["twice.yaml"], 2, "clip is searched by the space and fixed by clip=0.1 among its words"),
        (["tiny.yaml", "--storage", "nonsense"], 2, "--storage nonsense cannot be opened"),
        (["begun", "batch_size=8"], 2, "begun holds another search (words"),
        (["tiny.yaml", "--dir", "begun", "n_critic=1"], 2, "begun holds another search (words"),
        (["begun", "--dir", "other"], 2, "leave --dir out"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_starts(
    words: list[str],
    code: int,
    said: str,
    tiny: str,
    quick: None,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    SearchFolder(Path("begun")).begin(read_search(Path(tiny)), "tiny")
    own = {**SPACE, "space": {**SPACE["space"], "resume": {"choices": ["auto", None]}}}
    Path("resume.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    Path("twice.yaml").write_text(
        yaml.safe_dump({**SPACE, "words": ["clip=0.1"]}), encoding="utf-8"
    )
    assert command.run(words) == code
    answer = capsys.readouterr().err
    assert answer.startswith("wgan-search: ")
    assert answer.count("\n") == 1
    assert said in answer
    assert not list(here.rglob("trials"))
    assert not (here / "outputs").exists()


def test_without_optuna_it_says_what_to_install(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command.run([tiny]) == 2
    assert 'pip install "wgan-train[search]"' in capsys.readouterr().err


def test_a_search_is_no_group_of_wgan_train(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--help"]) == 0
    assert "search=" not in capsys.readouterr().out
    assert train(["search=digits"]) == 2
    assert train(["+search=digits"]) == 2


def test_help_lists_the_spaces(shell: Command) -> None:
    shown = shell("--help", command="wgan-search").stdout
    assert "digits " in shown
    assert "mnist " in shown


def test_a_trial_is_a_real_run_that_repeats(
    tiny: str, command_server: CommandServer, here: Path
) -> None:
    searching = command_server.start("wgan-search", [tiny, "--dir", "mine", "--trials", "1"], here)
    shown, complaints = searching.communicate(timeout=300)
    assert searching.returncode == 0, complaints
    assert complaints == ""
    facts = read_study(here / "mine")
    assert facts is not None
    assert facts.best is not None
    run = here / "mine" / "trials" / "0000"
    assert status_of(run)["state"] == "finished"
    assert json.loads((run / "environment.json").read_text())["wait_policy"] == POLICY
    assert facts.best.value == metrics_of(run)[-1]["wasserstein/exact"]
    assert list(facts.best.history) == [1, 2]
    (again,) = (line for line in shown.splitlines() if line.startswith("  to repeat it"))
    assert train([*shlex.split(again)[4:], "hydra.run.dir=again"]) == 0
    assert metrics_of(here / "again")[-1]["wasserstein/exact"] == facts.best.value


@pytest.mark.exhaustive
def test_a_request_to_end_reaches_the_run(
    tiny: str, command_server: CommandServer, here: Path
) -> None:
    words = [tiny, "steps=1000000", "eval_every=1000000", "--dir", "mine"]
    searching = command_server.start("wgan-search", words, here)
    lines = here / "mine" / "trials" / "0000" / "metrics.jsonl"
    end = time.monotonic() + 120
    while not (lines.exists() and lines.stat().st_size):
        assert time.monotonic() < end
        time.sleep(0.1)
    searching.send_signal(signal.SIGTERM)
    _, complaints = searching.communicate(timeout=60)
    assert searching.returncode == 75
    assert complaints.splitlines()[-1].endswith("Go on with: wgan-search mine")
    assert status_of(lines.parent)["state"] == "preempted"
    assert list((lines.parent / "checkpoints").glob("step_*.pt"))
    facts = read_study(here / "mine")
    assert facts is not None
    assert [trial.state for trial in facts.trials] == ["running"]
    assert json.loads(lines.read_text().splitlines()[0])["step"] == 1
