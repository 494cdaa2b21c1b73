"""Machines without a home, locks, room for temporary files or UTF-8, with another user's files."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
from conftest import TINY, Command, curves_of, fast_curves_of, metrics_of, status_of
from PIL import Image

import wgan_cli
from benchmarks.forked_commands import CommandServer
from wgan_cli.commands import report, sample, search, sweep, train
from wgan_cli.commands.flags import with_names_quoted

QUIET = [*TINY, "metrics=[]"]
NOBODY = 65534
SPACE = "metric: wasserstein/exact\nspace:\n  clip: {low: 0.01, high: 0.02}\n"


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOLCK) -> None:
    """Like a home on a network disk without a lock service."""

    def refuse(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_run_on_a_disk_without_locks_goes_on_with_a_warning(
    number: int, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_locks(monkeypatch, number)
    assert train.run([*QUIET, "hydra.run.dir=run"]) == 0
    warning = (
        f"The disk of run cannot lock files ({os.strerror(number)})."
        " Do not start a second command that trains there."
    )
    assert capsys.readouterr().err.count(warning) == 1
    assert warning in (here / "run" / "train.log").read_text()
    assert train.run(["resume=run", "steps=3"]) == 0
    assert status_of(here / "run")["step"] == 3
    # What a lock is not needed for is still refused.
    assert train.run([*QUIET, "hydra.run.dir=run"]) == 8


def test_a_sweep_without_locks_goes_on_and_a_search_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_locks(monkeypatch)
    assert train.run([*QUIET, "-m", "seed=1,2", "hydra.sweep.dir=sweep"]) == 0
    assert [status_of(here / "sweep" / job)["state"] for job in "01"] == ["finished"] * 2
    (here / "space.yaml").write_text(SPACE)
    capsys.readouterr()
    assert search.run(["space.yaml", *TINY, "--trials", "1", "--dir", "search"]) == 7
    said = capsys.readouterr().err
    assert "cannot lock files (No locks available). Choose a folder on another disk." in said


def test_a_user_without_a_home_trains_without_a_cache(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    quick_classifier: None,
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    words = [*TINY, "metrics=[metrics/class_kl]", "feature_samples=32", "hydra.run.dir=run"]
    assert train.run(words) == 0
    assert "it is not cached, as this user has no home folder" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["run"]


def test_joblib_is_refused_where_processes_cannot_share_memory(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sweep.multiprocessing, "Lock", full)
    words = ["-m", "seed=1,2", "hydra/launcher=joblib", "hydra.sweep.dir=sweep"]
    assert train.run([*QUIET, *words]) == 7
    assert "needs shared memory (/dev/shm)" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_readers_of_images_are_refused_there_with_the_remedy(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (here / "images").mkdir()
    for index in range(40):
        picture = np.random.default_rng(index).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(picture).save(here / "images" / f"{index}.png")
    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", full)
    images = ["dataset=image_folder", "dataset.root=images", "dataset.size=16"]
    words = [*QUIET, *images, "dataset.in_memory=false", "hydra.run.dir=run", "batch_size=4"]
    assert train.run([*words, "dataset.workers=2"]) == 3
    said = capsys.readouterr().err
    assert "reading its images failed ([Errno 28] No space left on device)" in said
    assert "dataset.workers=0 reads without them" in said
    assert train.run([*words, "hydra.run.dir=other", "dataset.workers=0"]) == 0


def test_a_study_that_cannot_be_copied_is_left_out_with_the_reason(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "space.yaml").write_text(SPACE)
    (here / "search").mkdir()
    storage = f"sqlite:///{here}/search/study.db"
    words = ["space.yaml", *TINY, "--trials", "1", "--dir", "search", "--storage", storage]
    assert search.run(words) == 0
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(here / "space.yaml")])
    capsys.readouterr()
    assert report.run(["search"]) == 0
    assert capsys.readouterr().err == (
        "wgan-report: The study cannot be read. No folder for temporary files can be written: set"
        " TMPDIR to one. The report leaves this study out.\n"
    )


@pytest.mark.charts
def test_charts_need_some_folder_of_matplotlibs(shell: Command, tmp_path: Path) -> None:
    """In processes of their own: matplotlib looks for its folder at its import."""
    assert train.run([*QUIET, f"hydra.run.dir={tmp_path}/run"]) == 0
    (tmp_path / "file").touch()
    env = {"MPLCONFIGDIR": str(tmp_path / "file" / "below")}
    done = shell("run", command="wgan-report", env=env)
    assert done.returncode == 0
    assert done.stderr == (
        "Matplotlib cannot keep its list of fonts, and makes it each time."
        " Set MPLCONFIGDIR to a folder that can be written.\n"
    )


OVERRIDES = {
    "seed=1": "seed=1",
    "dataset.root=/data/jörg/Bäume": "dataset.root='/data/jörg/Bäume'",
    "dataset.root=a,Bäume": "dataset.root=a,'Bäume'",
    "dataset.root='Bäume'": "dataset.root='Bäume'",
    "dataset.root=[Bäume]": "dataset.root=[Bäume]",
    "Bäume": "Bäume",
}


@pytest.mark.parametrize("typed", OVERRIDES)
def test_names_with_letters_beyond_ascii_are_quoted(typed: str) -> None:
    assert with_names_quoted(typed) == OVERRIDES[typed]


# Python takes LC_ALL=C for UTF-8, unless told not to. Then it has no letters beyond ASCII at all.
LOCALES = {
    "C": {"LC_ALL": "C"},
    "ascii streams": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
}


@pytest.mark.parametrize("locale", LOCALES)
def test_umlauts_without_a_locale(wgan: Command, tmp_path: Path, locale: str) -> None:
    env = LOCALES[locale]
    done = wgan(*QUIET, "hydra.run.dir=Läufe/ä", env=env)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert "Läufe/ä" in (tmp_path / "Läufe" / "ä" / "train.log").read_text(encoding="utf-8")
    for command in ("wgan-sample", "wgan-eval", "wgan-report"):
        done = wgan("Läufe/ä", command=command, env=env)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    page = tmp_path / "Läufe" / "ä" / "report.html"
    assert "Läufe/ä" in page.read_text(encoding="utf-8")


def test_bytes_that_are_no_text_are_refused_with_a_remedy(shell: Command, tmp_path: Path) -> None:
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell(*QUIET, "hydra.run.dir=Läufe", env=env)
    assert done.returncode == 2
    assert "LC_ALL=C.UTF-8" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
class TestAnotherUser:
    """Root's files, which `nobody` uses: read them they may, and write only beside them."""

    @pytest.fixture
    def shared(self) -> Iterator[Path]:
        """A folder that others may read, unlike pytest's, with the folder `own` of the other."""
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            own = Path(folder, "own")
            own.mkdir()
            os.chown(own, NOBODY, NOBODY)
            yield Path(folder)

    @pytest.fixture
    def nobody(self, command_server: CommandServer, shared: Path) -> Callable[..., tuple[int, str]]:
        """Run a command as the other user, who must be able to read the installed packages."""
        for package in (hydra, wgan_cli):
            for folder in Path(package.__file__ or "").parents:
                if folder.stat().st_mode & 0o5 != 0o5:
                    pytest.skip(f"other users may not read {folder}")

        def run(module: str, *words: str) -> tuple[int, str]:
            code = (
                f"import os\nos.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
                "from wgan_cli.metrics import classifier_training\n"
                "classifier_training.STEPS, classifier_training.EPOCHS = 40, 1\n"
                f"from wgan_cli.commands.{module} import main\nmain()\n"
            )
            process = command_server.python(code, list(words), shared)
            return process.wait(120), process.communicate()[1]

        return run

    def test_a_run_of_another_user(
        self, nobody: Callable[..., tuple[int, str]], shared: Path
    ) -> None:
        assert train.run([*QUIET, f"hydra.run.dir={shared}/run"]) == 0
        before = (shared / "run" / "status.json").read_bytes()
        code, said = nobody("train", "resume=run", "steps=4")
        assert code == 7
        fork = "resume=run/checkpoints/step_00000002.pt"
        assert said == (
            "wgan-train: run/.lock cannot be written: Permission denied. In a folder of your own,"
            f" it goes on with: wgan-train {fork}\n"
        )
        assert nobody("train", fork, "steps=4", "hydra.run.dir=own/run")[0] == 0
        code, said = nobody("evaluate", "run", "--metrics", "exact", "--n", "16")
        assert code == 7
        assert "Permission denied" in said
        assert nobody("sample", "run", "--n", "4")[0] == 7
        assert nobody("sample", "run", "--n", "4", "--out", "own/mine.png")[0] == 0
        assert nobody("report", "run", "--out", "own")[0] == 0
        assert (shared / "run" / "status.json").read_bytes() == before
        # As after `umask 077`: nobody else may read it.
        (shared / "run").chmod(0o700)
        for module in ("sample", "evaluate", "report"):
            code, said = nobody(module, "run")
            assert code == 4, said
            assert "Permission denied" in said
            assert "Traceback" not in said

    def test_a_cache_of_another_user(
        self,
        nobody: Callable[..., tuple[int, str]],
        shared: Path,
        monkeypatch: pytest.MonkeyPatch,
        quick_classifier: None,
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
        words = [*TINY, "metrics=[metrics/class_kl]", "feature_samples=32"]
        assert train.run([*words, f"hydra.run.dir={shared}/run"]) == 0
        (file,) = (shared / "cache" / "wgan-train").iterdir()
        file.chmod(0o600)
        file.parent.chmod(0o755)
        kept = file.read_bytes()
        code, said = nobody("train", *words, "hydra.run.dir=own/run")
        assert code == 0, said
        assert f"{file} cannot be read: Permission denied. The classifier is trained again." in said
        assert "it is not cached: " in said
        assert file.read_bytes() == kept


def test_a_clock_that_is_set_back_loses_no_point(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of `time.time` returns an hour less than the one before."""
    now = 2e9

    def earlier() -> float:
        nonlocal now
        now -= 3600
        return now

    monkeypatch.setattr(time, "time", earlier)
    words = [*QUIET, "log_every=1", "hydra.run.dir=run"]
    assert train.run([*words, "steps=4"]) == 0
    assert train.run(["resume=run", "steps=8"]) == 0
    run = here / "run"
    tag, steps = "critic/wasserstein", list(range(1, 9))
    assert [int(line["step"]) for line in metrics_of(run)] == steps
    assert all(line["throughput/step_ms"] > 0 for line in metrics_of(run))
    assert curves_of(run)[tag] == steps
    fast = fast_curves_of(run, 8)
    assert fast is None or [step for step, _ in fast[tag]] == steps
    assert 0 < status_of(run)["seconds"] < 300
    assert sample.run(["run", "--n", "4"]) == 0
