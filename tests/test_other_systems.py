"""What the package does where a system lacks modules and names that Linux has."""

from __future__ import annotations

import builtins
import errno
import io
import ntpath
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
from conftest import TINY

from wgan_cli import operating_system, process_control
from wgan_cli.commands import streams
from wgan_cli.files import overwrite_in_place, write_atomically
from wgan_cli.locks import held, is_stale, locked
from wgan_cli.out_of_memory import memory_used
from wgan_cli.search.folder import SearchFolder

MISSING = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty")
# What Windows lacks of these modules.
HIDDEN = {
    "os": r"fork\w*|[gs]ete?[ug]id|[gs]etp?[gs]id|killpg|uname|statvfs|p(write|read)v?|fchmod"
    r"|mkfifo|sysconf|nice|getloadavg|sched_\w+|O_(NONBLOCK|CLOEXEC|DIRECTORY|NOFOLLOW)|W[A-Z]+",
    "signal": r"SIG(?!INT$|TERM$|_DFL$|_IGN$)\w+|pthread_\w+|alarm|setitimer|sigwait\w*",
    "errno": "EDQUOT|ENOTSUP|EOPNOTSUPP",
}


def hide_posix() -> None:
    """Hide MISSING and HIDDEN from this package, and from no other; refuse what cannot work."""
    whole, real_kill = builtins.__import__, os.kill

    def lacking(name: str) -> types.ModuleType:
        module = types.ModuleType(name)
        known = vars(whole(name)).items()
        kept = {key: value for key, value in known if not re.fullmatch(HIDDEN[name], key)}
        vars(module).update(kept)
        return module

    fakes = {name: lacking(name) for name in HIDDEN}

    def kill(process: int, number: int) -> None:
        raise AssertionError("os.kill ends a process on Windows")

    fakes["os"].kill = kill  # type: ignore[attr-defined]

    def hiding(name: str, globals_: Any = None, *rest: Any, **more: Any) -> Any:
        if globals_ is not None and str(globals_.get("__name__")).startswith("wgan_cli"):
            if name in MISSING:
                raise ImportError(f"no module named {name}")
            if name in fakes:
                return fakes[name]
        return whole(name, globals_, *rest, **more)

    assert "wgan_cli.files" not in sys.modules
    assert real_kill is os.kill
    builtins.__import__ = hiding


LIFE = """
import multiprocessing, os, sys
sys.path.insert(0, {tests!r})


def live() -> None:
    from wgan_cli.commands import report, train

    for run, words in {commands!r}:
        code = {{"train": train, "report": report}}[run].run(words)
        assert code == 0, (run, words, code)
    from wgan_cli import files, process_control

    assert not hasattr(process_control.os, "fork") and not hasattr(files.os, "statvfs")


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    hide = {{}}
    exec({hide!r}, hide)
    hide["hide_posix"]()
    live()
"""


def hiding_code() -> str:
    """The code of `hide_posix` alone: this module imports the package."""
    import inspect

    head = "import builtins, os, re, sys, types\nfrom typing import Any\n"
    return f"{head}MISSING, HIDDEN = {MISSING!r}, {HIDDEN!r}\n{inspect.getsource(hide_posix)}"


def lived(folder: Path, commands: Sequence[tuple[str, list[str]]]) -> str:
    """What these commands print on stdout, one after another in a process without POSIX."""
    script = folder / "life.py"
    tests = str(Path(__file__).parent)
    script.write_text(LIFE.format(tests=tests, commands=list(commands), hide=hiding_code()))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_it_trains_resumes_sweeps_and_reports_without_posix(tmp_path: Path) -> None:
    quick = [*TINY, "metrics=[]", "logger=none"]
    run, sweep = str(tmp_path / "run"), str(tmp_path / "sweep")
    # One job at a time, in this process: workers would have POSIX.
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]
    printed = lived(
        tmp_path,
        [
            ("train", [*quick, f"hydra.run.dir={run}"]),
            ("train", [f"resume={run}", "steps=4"]),
            ("train", [*quick, *joblib, "-m", "seed=0,1", f"hydra.sweep.dir={sweep}"]),
            ("report", [sweep]),
        ],
    )
    assert "Finished 4 steps" in printed
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == [
        "step_00000002.pt",
        "step_00000004.pt",
    ]
    assert (tmp_path / "sweep/report.html").is_file()
    left = [path.name for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".jobs.lock"))]
    assert left == []


class InUse:
    """Raises Windows's error for a file that another program has open, a number of times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, *arguments: Any) -> None:
        if self.times:
            self.times -= 1
            error = PermissionError(errno.EACCES, "in use")
            error.winerror = 32  # type: ignore[attr-defined]
            raise error


def test_a_file_that_a_reader_has_open_is_replaced_once_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, in_use, really = tmp_path / "status.json", InUse(2), Path.replace
    path.write_bytes(b"old")

    def replace(source: Path, target: Path) -> Path:
        in_use()
        return really(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    # A folder that may not be written does not become writable by waiting.
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "")))
    since = time.monotonic()
    with pytest.raises(Exception, match="cannot be written"):
        write_atomically(path, b"newer")
    assert time.monotonic() - since < 1
    assert [each.name for each in tmp_path.iterdir()] == ["status.json"]


def test_a_file_that_stays_open_elsewhere_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operating_system, "_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok: InUse(99)())
    operating_system.remove(tmp_path / "step_00000001.pt")


def test_a_lock_file_that_cannot_be_removed_open_is_closed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, really = tmp_path / ".lock", Path.unlink

    def unlink(each: Path, missing_ok: bool = False) -> None:
        if path in [link.resolve() for link in Path("/proc/self/fd").iterdir()]:
            raise PermissionError(errno.EACCES, "in use")
        really(each, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with held(path):
        assert path.exists()
        assert locked(path) is None
        assert not is_stale(path)
    assert not path.exists()


HOLDER = """
import sys, time
from pathlib import Path, PureWindowsPath
from wgan_cli.locks import locked
lock = locked(Path(sys.argv[1]))
print(lock is not None, flush=True)
time.sleep(60)
"""


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert not is_stale(path)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"True\n"
    assert locked(path) is None
    assert not is_stale(path)
    holder.kill()
    holder.communicate()
    assert is_stale(path)
    # A file that may only be read tells it, too.
    path.chmod(0o400)
    assert is_stale(path)
    path.chmod(0o600)
    lock = locked(path)
    assert lock is not None
    path.unlink()
    # The removed file is locked still, but nobody else will find it.
    other = locked(path)
    assert other is not None
    lock.close()
    other.close()


def test_what_is_unknown_without_posix_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert operating_system.peak_memory() is None
    assert memory_used(MemoryError()) == "the peak was unknown"
    assert operating_system.free_bytes(tmp_path / "nowhere") is None
    monkeypatch.delattr(os, "statvfs")
    assert operating_system.has_room_for_files(tmp_path)
    monkeypatch.delattr(os, "O_DIRECTORY")
    operating_system.sync_folder(tmp_path / "nowhere")


def test_a_full_disk_is_overwritten_within_the_file(tmp_path: Path) -> None:
    status = types.SimpleNamespace(st_size=10)
    assert operating_system.allocated_bytes(status) == 10  # type: ignore[arg-type]
    path = tmp_path / "status.json"
    path.write_bytes(b"a long old text")
    assert overwrite_in_place(path, b"new")
    assert path.read_bytes() == b"new"
    assert not overwrite_in_place(path, bytes(10**6))
    assert path.read_bytes() == b"new"


def test_macos_syncs_the_disks_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    fake = types.SimpleNamespace(F_FULLFSYNC=51, fcntl=lambda *words: called.append(words))
    monkeypatch.setitem(sys.modules, "fcntl", fake)
    with (tmp_path / "file").open("wb") as file:
        operating_system.sync_file(file.fileno())
        assert called == [(file.fileno(), 51)]
        # A network disk does not know the call; there the data are synced in the usual way.
        fake.fcntl = lambda *words: os.close(-1)
        synced: list[int] = []
        monkeypatch.setattr(os, "fsync", synced.append)
        operating_system.sync_file(file.fileno())
        assert synced == [file.fileno()]


class Process:
    """A process that notes what it is sent."""

    def __init__(self, *, console: bool) -> None:
        self.console = console
        self.seen: list[object] = []

    def send_signal(self, number: object) -> None:
        if not self.console:
            raise OSError("no console")
        self.seen.append(number)

    def terminate(self) -> None:
        self.seen.append("terminate")


def test_a_trial_on_windows_gets_ctrl_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", 1, raising=False)
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **options: started.append(options))
    process_control.start_stoppable(["wgan-train"], 3, stdin=-3)
    assert started == [{"stdin": -3, "creationflags": 512}]
    for console, seen in ((True, 1), (False, "terminate")):
        process: Any = Process(console=console)
        process_control.stop(process)
        assert process.seen == [seen]


def test_a_windows_worker_asks_multiprocessing_for_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not process_control.parent_has_ended(os.getppid())
    assert process_control.parent_has_ended(os.getppid() + 1)
    monkeypatch.delattr(os, "fork")
    parent = types.SimpleNamespace(is_alive=lambda: False)
    monkeypatch.setattr("multiprocessing.parent_process", lambda: parent)
    assert process_control.parent_has_ended(os.getppid())
    monkeypatch.setattr("multiprocessing.parent_process", lambda: None)
    assert not process_control.parent_has_ended(os.getppid())


def test_a_windows_process_is_not_ended_by_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("os.kill ends a process on Windows"))
    process_control.ask_to_end(os.getpid())
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        process_control.ask_this_process_to_end()
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_commands_are_quoted_for_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["wgan-train", r"resume=C:\runs\a & b", "it's", "a\u2019b", "$(calc)", "x,y", "a=1e-4"]
    assert shlex.split(process_control.shell_words(words)) == words
    monkeypatch.delattr(os, "fork")
    assert process_control.shell_words(words) == (
        r"wgan-train 'resume=C:\runs\a & b' 'it''s' '" + "a\u2019\u2019b' '$(calc)' 'x,y' a=1e-4"
    )


def test_a_trial_is_not_started_while_its_run_goes_on(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    lock = folder.lock_trial(3)
    assert lock is not None
    lock.close()
    run = locked(folder.trial(3) / ".lock")
    assert run is not None
    assert folder.lock_trial(3) is None
    run.close()
    lock = folder.lock_trial(3)
    assert lock is not None
    lock.close()


def test_runs_on_several_drives_keep_their_whole_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    here = operating_system.common_folder(["/runs/a/0", "/runs/b/1"])
    assert here == Path("/runs")
    assert operating_system.relative("/runs/b/1", here) == "b/1"
    monkeypatch.setattr(operating_system, "Path", PureWindowsPath)
    monkeypatch.setattr(operating_system.os, "path", ntpath)
    assert operating_system.common_folder([r"C:\runs\a", r"D:\b"]) is None
    assert operating_system.relative(r"D:\b", None) == "D:/b"
    folder = operating_system.common_folder([r"C:\runs\a", r"C:\runs\b\c"])
    assert operating_system.relative(r"C:\runs\b\c", folder) == "b/c"


def test_a_windows_console_keeps_pythons_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Console(io.RawIOBase):
        def writable(self) -> bool:
            return True

    stream = io.TextIOWrapper(io.BufferedWriter(Console()), "utf-8")
    monkeypatch.setattr(io, "_WindowsConsoleIO", Console, raising=False)
    assert streams._outlasting(stream, 1) is stream
    assert stream.errors == "replace"


def test_a_signal_without_a_name_is_numbered() -> None:
    assert process_control.signal_name(9) == "SIGKILL"
    assert process_control.signal_name(40) == "signal 40"
