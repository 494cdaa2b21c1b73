"""Every row of benchmarks/bad_commands.py, in one process: code, words, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import refusals
from benchmarks.bad_commands import BAD_COMMANDS
from benchmarks.bad_words import BAD_WORDS
from wgan_cli.commands.train import run

# What is not refused in spite of its mistake ends soon. A row's own words come later and win.
SHORT = ["steps=1", "threads=1"]


def with_short(words: list[str]) -> list[str]:
    return ["-m", *SHORT, *words[1:]] if words[:1] == ["-m"] else [*SHORT, *words]


def started(*handed: object) -> int:
    raise AssertionError("what the words show is answered before Hydra, which imports torch")


@pytest.mark.parametrize("what", BAD_COMMANDS)
def test_a_bad_command_is_answered_in_plain_words(
    what: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = BAD_COMMANDS[what]
    refusals.write(bad.files, here)
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "own_colour", raising=False)
    if what in BAD_WORDS:
        monkeypatch.setattr("wgan_cli.commands.train._hand_over", started)
        monkeypatch.setattr("wgan_cli.commands.train._start", started)
    code = run(with_short(bad.words))
    answer = capsys.readouterr()
    assert refusals.wrongs_of(bad, code, answer.err, here) == []
    assert "Error" not in answer.err
    # Above the answer there may be what was seen on the way: that images are streamed or damaged.
    assert len(answer.err.splitlines()) <= (1 if what in BAD_WORDS else 4), answer.err
    if bad.words[:1] != ["-m"]:
        assert answer.out == ""


def test_until_then_torch_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from wgan_cli.commands.train import run\n"
        "for words in (['clp=1'], ['-m', 'clip=0,1'], ['loss=hing'], ['eval_samples=999'],\n"
        "              ['model.critic._target_=nowhere.Net'], ['optimizer.lr=nan']):\n"
        "    assert run(words) == 2, words\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "what", ["n_critic=0", "wrong type in a sweep", "array, all equal", "run folder, taken"]
)
def test_the_shell_gets_the_same_answer(what: str, tmp_path: Path) -> None:
    bad = BAD_COMMANDS[what]
    _, _, answer = refusals.run(bad, tmp_path)
    assert refusals.wrongs_of(bad, answer.returncode, answer.stderr, tmp_path) == []
    assert answer.stdout == ""


def test_the_benchmark_sees_what_is_wrong(tmp_path: Path) -> None:
    bad = BAD_COMMANDS["clip=0"]
    (tmp_path / "outputs").mkdir()
    assert refusals.wrongs_of(bad, 1, "Traceback (most recent call last)\n", tmp_path) == [
        "exit 1, not 2",
        "does not say 'clip'",
        "does not say 'above 0'",
        "shows a traceback",
        "leaves outputs",
    ]
