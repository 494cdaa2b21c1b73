from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import TINY, Command, exhaustive_beyond, status_of

from wgan_cli import __version__
from wgan_cli.commands.help import EXAMPLES
from wgan_cli.commands.train import run
from wgan_cli.config import configs_folder

OPTIONS = sorted(
    path.relative_to(configs_folder())
    for path in configs_folder().glob("*/*.yaml")
    if path.parent.name != "search"
)
SETTINGS = [
    key
    for key in yaml.safe_load((configs_folder() / "train.yaml").read_text())
    if key not in ("defaults", "hydra")
]


def in_a_fresh_python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def section_of(page: str, group: str) -> str:
    found = re.search(rf"^  {group}=\n((?:    .*\n)+)", page, re.MULTILINE)
    assert found, f"the help has no group {group}"
    return found[1]


def cpu_seconds() -> float:
    """The time that processes of this test have used, however busy the machine is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_takes_under_a_second(shell: Command) -> None:
    seconds = []
    for _ in range(3):
        before = cpu_seconds()
        answer = shell("--help")
        seconds.append(cpu_seconds() - before)
        assert answer.returncode == 0
        assert answer.stderr == ""
    assert min(seconds) < 1.0


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"]])
def test_help_and_version_import_no_torch(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from wgan_cli.commands.train import run\n"
        f"code = run({words})\n"
        "sys.exit(code or 50 * ('torch' in sys.modules))\n"
    )
    answer = in_a_fresh_python(code, tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_help_lists_the_option_with_its_line(
    option: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--help"]) == 0
    section = section_of(capsys.readouterr().out, option.parent.name)
    assert re.search(rf"^    {option.stem} +\S.{{9,}}$", section, re.MULTILINE), section


def test_help_names_the_default_of_each_group_first(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["--help"])
    page = capsys.readouterr().out
    for group, option in (("dataset", "digits"), ("model", "mlp"), ("loss", "wasserstein")):
        assert section_of(page, group).split()[0] == option


@pytest.mark.parametrize("setting", SETTINGS)
def test_help_lists_the_root_setting(
    setting: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["--help"])
    assert re.search(rf"^  {setting}( |$)", capsys.readouterr().out, re.MULTILINE)


def test_help_lists_the_options_of_a_users_own_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = here / "mine" / "experiment"
    own.mkdir(parents=True)
    (own / "thesis.yaml").write_text("# @package _global_\n# What chapter three shows\nclip: 0.2\n")
    os.mkfifo(own / "pipe.yaml")
    (own / "endless.yaml").symlink_to("/dev/zero")
    (own / "latin.yaml").write_bytes(b"# \xe9")
    (own / "folder.yaml").mkdir()
    assert run(["--config-dir", "mine", "--help"]) == 0
    section = section_of(capsys.readouterr().out, "experiment")
    assert re.search(r"^    thesis +What chapter three shows$", section, re.MULTILINE)


def test_help_shows_its_five_examples(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    page = capsys.readouterr().out
    assert len(EXAMPLES) == 5
    for command, what in EXAMPLES:
        assert f"  {command}\n      {what}\n" in page


@pytest.mark.parametrize(
    "command",
    exhaustive_beyond(
        [command for command, _ in EXAMPLES if " -m " not in command],
        [command for command, _ in EXAMPLES],
    ),
)
def test_the_example_works(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = command.split()
    assert program == "wgan-train"
    assert run([*words, *TINY]) == 0, capsys.readouterr().err
    jobs = 1
    for word in words:
        jobs *= 1 + word.count(",")
    folders = [path.parent for path in (here / "outputs").rglob("status.json")]
    assert len(folders) == jobs
    assert {status_of(folder)["state"] for folder in folders} == {"finished"}


def test_version(shell: Command) -> None:
    answer = shell("--version")
    assert answer.returncode == 0
    assert answer.stdout == f"wgan-train {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_to_evaluate(
    shell: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["-sc", f"install={shell}"]) == 0
    script = capsys.readouterr().out
    assert "wgan-train" in script
    assert "query=" in script


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("dataset=", ["dataset=digits", "dataset=mnist", "dataset=cifar10"]),
        ("loss=hin", ["loss=hinge"]),
        ("optimizer.l", ["optimizer.lr="]),
        ("n_cri", ["n_critic="]),
    ],
)
def test_completion_offers_options_and_settings(
    typed: str,
    offered: list[str],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = f"wgan-train {typed}"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert run(["-sc", "query=bash"]) == 0
    answers = capsys.readouterr().out.split()
    assert set(offered) <= set(answers)
    assert all(answer.startswith(typed) for answer in answers)


def test_bash_itself_completes_a_data_set(tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    complete = (
        'eval "$(wgan-train -sc install=bash)"\n'
        "COMP_LINE='wgan-train dataset=gaussians_r' COMP_CWORD=1\n"
        "COMP_POINT=${#COMP_LINE}\n"
        "hydra_bash_completion\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    answer = subprocess.run(
        ["bash", "-c", complete],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.stdout.split() == ["dataset=gaussians_ring"], answer.stderr
    assert list(tmp_path.iterdir()) == []
