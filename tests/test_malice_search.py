"""A search's folder or a space from elsewhere: neither runs code nor writes outside its folder."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY
from optuna.storages import RDBStorage

from wgan_cli.commands import report
from wgan_cli.commands import search as command
from wgan_cli.errors import CheckpointError, ConfigError
from wgan_cli.search.database import absolute_url
from wgan_cli.search.folder import SearchFolder, open_study
from wgan_cli.search.journal import read_journal
from wgan_cli.search.space import parse_search
from wgan_cli.search.study import read_study

SPACE = {"clip": {"low": 0.01, "high": 0.1}}
WORDS = [*TINY, "eval_every=2", "metrics=[wasserstein/exact]"]
TRIAL = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
line = json.dumps({"step": 2, "wasserstein/exact": 1.0})
(folder / "metrics.jsonl").write_text(line)
(folder / "status.json").write_text(json.dumps({"state": "finished", "exit_code": 0}))
"""


@pytest.fixture
def quick(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that do not train."""
    script = here.parent / f"{here.name}_trial.py"
    script.write_text(TRIAL)

    def made(words: Sequence[str], folder: Path, **_: object) -> list[str]:
        return [sys.executable, "-S", str(script), str(folder)]

    monkeypatch.setattr(command, "_command", made)


def saved_search(folder: Path, **changes: Any) -> Path:
    """A search.yaml as `wgan-search` writes it, but for some values."""
    folder.mkdir(parents=True, exist_ok=True)
    node = {"study": "x", "storage": None, "space": SPACE, "words": WORDS, "trials": 1, **changes}
    (folder / "search.yaml").write_text(yaml.safe_dump(node))
    return folder


def with_run(folder: Path) -> Path:
    run = folder / "trials" / "0000"
    run.mkdir(parents=True, exist_ok=True)
    (run / "status.json").write_text('{"state": "finished", "final": {"wasserstein/exact": 1.0}}')
    return folder


def database(
    path: Path, script: str = "CREATE TABLE precious (n); INSERT INTO precious VALUES (7)"
):
    with closing(sqlite3.connect(path)) as made:
        made.executescript(script)
    return path


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_report_leaves_a_database_elsewhere_alone(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = database(here / "own.db")
    before = theirs.read_bytes()
    url = f"sqlite:///{theirs}"
    folder = with_run(saved_search(here / "search", storage=url))
    (folder / "link.db").symlink_to(theirs)
    for named in (url, f"sqlite:///{folder}/link.db", f"sqlite:///{folder}/../own.db"):
        saved_search(folder, storage=named)
        assert report.run([str(folder)]) == 0
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"add --storage {named}" in said
        assert report.run([str(folder), "--storage", named]) == 0
        assert capsys.readouterr().err == ""
    assert theirs.read_bytes() == before
    assert sorted(path.name for path in here.iterdir()) == ["own.db", "search"]
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://127.0.0.1:1/x",
        "sqlite+pysqlite:///search/x.db",
        "sqlite:///search/x.db?mode=rwc",
        "sqlite:///file:search/x.db?mode=rwc&uri=true",
        "sqlite:///search/{SCHEMA_VERSION}.db",
        "sqlite:///search/{SCHEMA_VERSION:>9}.db",
        "sqlite:///:memory:",
        "sqlite:///",
        "sqlite://",
        "nonsense",
    ],
)
def test_no_other_database_is_opened_unless_named(
    url: str, here: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_run(saved_search(here / "search", storage=url))
    before = state_of(here)
    with pytest.raises(CheckpointError, match="add --storage"):
        read_study(folder)
    assert command.run(["search"]) == 4
    assert "add --storage" in capsys.readouterr().err
    assert state_of(here) == before


def study_in(folder: Path, url: str) -> SearchFolder:
    """A begun search with one finished trial, its study in a database."""
    named = SearchFolder(folder, url)
    node = {"space": SPACE, "words": WORDS, "trials": 2}
    named.begin(parse_search(node, Path("x.yaml")), "x")
    study = open_study(named)
    study.tell(study.ask(), 1.0)
    with_run(folder)
    return named


def test_a_database_in_its_folder_is_read_from_a_copy(here: Path) -> None:
    path = here / "search" / "own.db"
    folder = study_in(here / "search", f"sqlite:///{path}")
    before = state_of(here / "search")
    for mode in (0o644, 0o444):
        path.chmod(mode)
        facts = read_study(folder.path)
        assert facts is not None
        assert facts.best is not None
        assert facts.best.value == 1.0
    assert state_of(here / "search") == before


def test_a_database_with_a_write_ahead_log_stays_as_it_is(here: Path) -> None:
    path = here / "search" / "own.db"
    folder = study_in(here / "search", f"sqlite:///{path}")
    database(path, "PRAGMA journal_mode=WAL")
    before = state_of(here / "search")
    assert read_study(folder.path) is not None
    assert state_of(here / "search") == before


ENDLESS = "WITH RECURSIVE more(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM more) SELECT n FROM more"
SCHEMAS = {
    "a view": f"DROP TABLE studies; CREATE VIEW studies AS {ENDLESS}",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON trials BEGIN DELETE FROM studies; END",
    "a virtual table": "CREATE VIRTUAL TABLE t USING fts5(x)",
    "a computed column": "CREATE TABLE t (x, y AS (hex(zeroblob(x))))",
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_only_tables_that_optuna_makes_are_read(
    kind: str, here: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / "search" / "own.db"
    folder = study_in(here / "search", f"sqlite:///{path}")
    database(path, SCHEMAS[kind])
    before = path.read_bytes()
    assert read_study(folder.path) is None
    assert report.run(["search"]) == 0
    assert command.run(["search"]) == 4
    assert "own.db cannot be used" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "text", "large"])
def test_a_database_that_is_none_is_not_read(kind: str, here: Path, quick: None) -> None:
    path = saved_search(here / "search", storage=f"sqlite:///{here}/search/own.db") / "own.db"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("no database")
    else:
        with path.open("wb") as file:
            file.truncate(2**40)
    with_run(here / "search")
    assert report.run(["search"]) == 0
    assert command.run(["search"]) in (2, 4)


def test_a_search_goes_on_only_with_the_database_in_its_folder(
    here: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = database(here / "own.db")
    before = theirs.read_bytes()
    url = absolute_url("sqlite:///own.db")
    saved_search(here / "search", storage=url)
    for words in (["search"], ["space.yaml", "--dir", "search"]):
        shutil.copy("search/search.yaml", "space.yaml")
        node = yaml.safe_load(Path("space.yaml").read_text(encoding="utf-8"))
        Path("space.yaml").write_text(
            yaml.safe_dump({key: node[key] for key in ("space", "words", "trials")}),
            encoding="utf-8",
        )
        assert command.run(words) == 4
        assert f"add --storage {url}" in capsys.readouterr().err
    assert theirs.read_bytes() == before
    # Named, it is the user's own; and the hint in search.yaml is the command that works.
    assert command.run(["search", "--storage", "sqlite:///own.db"]) == 0
    assert command.run(["search", "--storage", "sqlite:///own.db", "--trials", "2"]) == 0
    assert f"wgan-search search --storage {url}" in Path("search/search.yaml").read_text(
        encoding="utf-8"
    )
    saved_search(here / "inside", storage=f"sqlite:///{here}/inside/x.db")
    assert command.run(["inside", "--trials", "2"]) == 0
    assert "wgan-search inside\n" in Path("inside/search.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", ["", "-journal", "-wal", "-shm"])
def test_a_databases_side_files_are_no_links(suffix: str, here: Path, quick: None) -> None:
    (here / "precious").write_text("7")
    saved_search(here / "search", storage=f"sqlite:///{here}/search/x.db")
    (here / "search" / f"x.db{suffix}").symlink_to(here / "precious")
    assert command.run(["search"]) == 4
    assert (here / "precious").read_text() == "7"


def test_a_journal_of_a_cut_off_write_is_not_followed(here: Path, quick: None) -> None:
    saved_search(here / "search", storage=f"sqlite:///{here}/search/x.db")
    (here / "search" / "x.db-journal").write_text("a journal may name files to delete")
    assert command.run(["search"]) == 4
    assert not (here / "search" / "x.db").exists()


def test_a_journal_is_only_read(here: Path) -> None:
    folder = SearchFolder(here / "search")
    folder.begin(parse_search({"space": SPACE}, Path("x.yaml")), "x")
    study = open_study(folder)
    study.tell(study.ask(), 1.0)
    before = state_of(here)
    folder.journal.chmod(0o444)
    facts = read_study(folder.path)
    assert facts is not None
    assert len(facts.trials) == 1
    assert state_of(here) == before
    with pytest.raises(OSError, match="only read"):
        read_journal(folder.journal).create_new_study([])


@pytest.mark.parametrize("kind", ["pipe", "device", "deep"])
def test_a_journal_that_is_none_is_not_read(kind: str, here: Path, quick: None) -> None:
    folder = with_run(saved_search(here / "search"))
    if kind == "pipe":
        os.mkfifo(folder / "study.log")
    elif kind == "device":
        (folder / "study.log").symlink_to("/dev/zero")
    else:
        (folder / "study.log").write_text("[" * 10**6 + "\n")
    assert report.run(["search"]) == 0
    assert command.run(["search"]) in (4, 7)


LINKS = ["study.log", ".study.log.lock", ".lock", "trials", "search.yaml"]
LINKS += ["trials/0000", "trials/0000/.search.lock", "trials/0000/console.log"]


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "new"])
@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("there", [True, False], ids=["a file", "nothing"])
def test_a_search_follows_no_link_out_of_its_folder(
    name: str,
    there: bool,
    begun: bool,
    here: Path,
    quick: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outside = here / "outside"
    if there and name.endswith(("trials", "0000")):
        outside.mkdir()
    elif there:
        outside.write_text("precious, without a last line")
    saved_search(here / "search")
    shutil.copy("search/search.yaml", "space.yaml")
    node = yaml.safe_load(Path("space.yaml").read_text(encoding="utf-8"))
    Path("space.yaml").write_text(
        yaml.safe_dump({"space": node["space"], "words": WORDS}), encoding="utf-8"
    )
    if not begun:
        Path("search/search.yaml").unlink()
    link = here / "search" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    before = state_of(here) if there else {}
    assert command.run(["space.yaml", "--dir", "search", "--trials", "1"]) in (2, 4)
    assert "Traceback" not in capsys.readouterr().err
    assert outside.exists() is there
    if there:
        assert {path: before[path] for path in before if path.startswith(str(outside))} == {
            path: found for path, found in state_of(here).items() if path.startswith(str(outside))
        }
        if outside.is_dir():
            assert list(outside.iterdir()) == []


EVIL = "{_target_: os.mkdir, path: executed}"
UNSAFE = [
    f"+hydra.callbacks.evil={EVIL}",
    "hydra.searchpath=[file://evil]",
    "+hydra/callbacks=evil",
    "hydra/launcher=joblib",
    "hydra.output_subdir=../executed",
    "hydra={}",
    "+defaults=[evil]",
    "+dataset@hydra.callbacks=digits",
    "+dataset@_global_=digits",
    "model=../../evil/model",
    "+experiment=../../evil/experiment",
    "logger=[../../evil/logger]",
    "model.generator._target_=os.mkdir",
    "+model.generator._args_=[executed]",
    "+model.generator._partial_=true",
    "+loss.traits={}",
    f"++model.generator={EVIL}",
    f"++loss={EVIL}",
    f"+model.generator.more=[[{EVIL}]]",
    "seed=${oc.env:HOME}",
    "seed=$\\{oc.env:HOME\\}",
    "dataset.root='${oc.env:HOME}'",
    "dataset.root=a${oc.env:HOME}",
    "dataset.root={a: '${oc.env:HOME}'}",
    "--config-dir=evil",
    "--trust=os",
    "-m",
    'dataset.root="a\x1b[2J"',
    "resume=auto",
    "hydra.run.dir=executed",
    "+search=digits",
]


@pytest.mark.parametrize("where", ["words", "space", "begun"])
@pytest.mark.parametrize("word", UNSAFE)
def test_a_file_sets_settings_alone(
    word: str, where: str, here: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = here / "evil" / "model"
    evil.mkdir(parents=True)
    target = {"_target_": "os.mkdir", "path": "executed"}
    (evil / "evil.yaml").write_text(yaml.safe_dump({"generator": target, "critic": target}))
    key, _, value = word.partition("=")
    node: dict[str, Any] = {"space": SPACE, "words": [*WORDS, word], "trials": 1}
    if where == "space":
        node = {"space": {**SPACE, key: {"choices": [value, "other"]}}, "words": WORDS}
    if where == "begun":
        saved_search(here / "begun", **node)
    (here / "space.yaml").write_text(yaml.safe_dump(node))
    before = state_of(here)
    assert command.run(["begun" if where == "begun" else "space.yaml"]) in (2, 4)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert said.startswith("wgan-search: ")
    assert "\x1b" not in said
    assert state_of(here) == before
    assert not (here / "executed").exists()
    assert not (here / "outputs").exists()


OWN = """
from wgan_cli.models.mlp import Generator
class Shallow(Generator):
    pass
"""


def test_own_classes_are_trusted_where_they_are_typed(
    here: Path,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(here / "mine")
    own = here / "mine" / "model"
    own.mkdir(parents=True)
    (here / "mine" / "my_networks.py").write_text(OWN)
    shipped = yaml.safe_load((Path(command.configs_folder()) / "model" / "mlp.yaml").read_text())
    shipped["generator"] = {"_target_": "my_networks.Shallow", "width": 8}
    (own / "shallow.yaml").write_text(yaml.safe_dump(shipped))
    words = [word for word in WORDS if "generator" not in word]
    (here / "space.yaml").write_text(yaml.safe_dump({"space": SPACE, "words": words}))
    typed = ["model=shallow", f"hydra.searchpath=['file://{here}/mine']"]
    assert command.run(["space.yaml", "--dir", "search", "--trials", "1", *typed]) == 0
    going_on = ["search", "--trials", "2"]
    assert command.run(going_on) == 2
    assert "type it in the command" in capsys.readouterr().err
    assert command.run([*going_on, typed[1]]) == 4
    assert "add --trust my_networks" in capsys.readouterr().err
    assert command.run([*going_on, typed[1], "--trust", "my_networks"]) == 0


def test_a_hint_has_all_that_going_on_needs(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(words: Sequence[str], folder: Path, **_: object) -> list[str]:
        return [sys.executable, "-c", "import sys; sys.exit(130)"]

    monkeypatch.setattr(command, "_command", stopped)
    (here / "space.yaml").write_text(yaml.safe_dump({"space": SPACE, "words": WORDS}))
    url = absolute_url("sqlite:///own.db")
    typed = ["space.yaml", "--dir", "search", "--storage", url, "hydra.job.name=x"]
    assert command.run(typed) == 130
    hint = capsys.readouterr().err
    assert hint.endswith(f"Go on with: wgan-search search --storage {url} hydra.job.name=x\n")
    assert command.run(hint.split("wgan-search")[-1].split()) == 130


def test_a_trial_imports_nothing_from_the_current_folder(here: Path) -> None:
    for name in ("torch.py", "hydra.py", "yaml.py", "json.py", "hydra_plugins/__init__.py"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text("import os; os.mkdir('executed')")
    (here / "path").mkdir()
    (here / "path" / "my_own.py").write_text("")
    words = command._command(["--version"], here)
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("wgan-train ")
    trial = words[2]
    shown = trial.partition("from wgan_cli")[0] + "import my_own; print(sys.argv, sys.path)"
    paths = f"{here / 'path'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    for more in ({}, {"PYTHONSAFEPATH": "1"}):
        env = {**os.environ, "PYTHONPATH": paths, **more}
        done = subprocess.run(
            [sys.executable, "-c", shown, "a=1"],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith("['wgan-train', 'a=1']")
        assert str(here / "path") in done.stdout
    assert not (here / "executed").exists()


def test_a_database_that_is_named_is_created(here: Path, quick: None) -> None:
    (here / "space.yaml").write_text(yaml.safe_dump({"space": SPACE, "words": WORDS}))
    words = ["space.yaml", "--dir", "search", "--trials", "1", "--storage", "sqlite:///new.db"]
    assert command.run(words) == 0
    assert len(RDBStorage("sqlite:///new.db").get_all_studies()) == 1


def test_control_characters_in_a_search_are_refused() -> None:
    for node in (
        {"metric": "a\x1b[2J"},
        {"words": ["a=\x07"]},
        {"space": {"clip\x9b": {"low": 1, "high": 2}}},
        {"space": {"clip": {"choices": ["a", "b\ud800"]}}},
    ):
        with pytest.raises(ConfigError, match="control characters"):
            parse_search({"space": SPACE, **node}, Path("x.yaml"))
