"""Commands in processes of their own, forked from a server that has imported everything once.

A console script takes 3 to 6 seconds to import torch and what builds on it; a fork of a process
that has done so takes milliseconds. What is forked is a process like any other: it has its own
folder, environment, signals, threads, stdout, stderr and exit code. The server never trains and has
one thread, so each command finds the state of a fresh process, except that modules are imported.
"""

from __future__ import annotations

import array
import atexit
import gc
import importlib
import io
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MAINS = {
    "wgan-train": "wgan_cli.commands.train",
    "wgan-sample": "wgan_cli.commands.sample",
    "wgan-eval": "wgan_cli.commands.evaluate",
    "wgan-search": "wgan_cli.commands.search",
    "wgan-report": "wgan_cli.commands.report",
}
# What the package imports only where it is needed.
LATE = [
    "hydra._internal.hydra",
    "hydra._internal.utils",
    "optuna",
    "scipy.optimize",
    "scipy.spatial",
    "scipy.stats",
    "sklearn.datasets",
    "sklearn.neighbors",
    "tensorboard.summary.writer.event_file_writer",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "torchvision",
]
MESSAGE = 1 << 20
# A command with this variable in its environment draws blank charts.
BLANK_CHARTS = "WGAN_TESTS_BLANK_CHARTS"


_savefig = Figure.savefig


def save_blank(figure: Figure, file: Any, **how: Any) -> None:
    """As `Figure.savefig`, but what is saved is blank."""
    _savefig(Figure(figsize=(1, 1)), file, **how)


class ForkedProcess:
    """As much of `subprocess.Popen` as the tests use."""

    def __init__(self, args: list[str], answers: IO[str], out: IO[str], err: IO[str]) -> None:
        self.args = args
        self.returncode: int | None = None
        self._answers, self._out, self._err = answers, out, err
        self.pid = int(answers.readline())

    def poll(self) -> int | None:
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; return all that it wrote to stdout and to stderr."""
        self.wait(timeout)
        written = []
        for file in (self._out, self._err):
            file.seek(0)
            written.append(file.read())
        return written[0], written[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._answers], [], [], timeout)[0]:
            self.returncode = int(self._answers.readline())
        return self.returncode


class CommandServer:
    """Forks console scripts for one test session."""

    def __init__(self, log: Path) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"import forked_commands as f; f.serve({other.fileno()})"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_importable())},
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        other.close()
        assert self._socket.recv(MESSAGE) == b"ready", log.read_text()

    def start(
        self,
        command: str,
        words: list[str],
        cwd: Path,
        env: dict[str, str] | None = None,
        *,
        start_new_session: bool = False,
    ) -> ForkedProcess:
        """`COMMAND WORDS` in the folder `cwd`; `env` is added to the environment of the tests."""
        return self._fork({"command": command, "words": words}, cwd, env, start_new_session)

    def python(self, code: str, words: list[str], cwd: Path) -> ForkedProcess:
        """`python -c CODE WORDS` in the folder `cwd`, with all modules imported."""
        return self._fork({"code": code, "words": words}, cwd, None, False)

    def _fork(
        self, what: dict[str, Any], cwd: Path, env: dict[str, str] | None, start_new_session: bool
    ) -> ForkedProcess:
        request = {
            **what,
            "cwd": str(cwd),
            "env": {**os.environ, **(env or {})},
            "session": start_new_session,
        }
        out, err = (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
            for _ in range(2)
        )
        reading, writing = os.pipe()
        socket.send_fds(
            self._socket, [json.dumps(request).encode()], [out.fileno(), err.fileno(), writing]
        )
        os.close(writing)
        args = [what.get("command", "python"), *what["words"]]
        return ForkedProcess(args, os.fdopen(reading), out, err)

    def run(
        self, command: str, words: list[str], cwd: Path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(command, words, cwd, env)
        try:
            out, err = process.communicate(timeout=300)
        finally:
            process.kill()
        assert process.returncode is not None
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def close(self) -> None:
        self._socket.close()
        self._process.wait(timeout=60)


def serve(connected: int) -> None:
    """Import everything, then fork a command for each message until the tests close the socket."""
    connection = socket.socket(fileno=connected)
    _import_everything()
    # What is imported stays shared with the commands: their garbage collectors leave it alone.
    gc.freeze()
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "only one thread can be forked"
    connection.send(b"ready")
    while True:
        message, ancillary, _, _ = connection.recvmsg(MESSAGE, socket.CMSG_SPACE(3 * 4))
        _reap()
        if not message:
            break
        descriptors = array.array("i")
        for _, _, data in ancillary:
            descriptors.frombytes(data)
        if os.fork() == 0:
            connection.close()
            _wait_for_command(json.loads(message), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _wait_for_command(request: dict[str, Any], out: int, err: int, answers: int) -> None:
    """Fork the command; answer with its process id and then with its exit code."""
    child = os.fork()
    if child == 0:
        os.close(answers)
        _be_command(request, out, err)
    os.close(out)
    os.close(err)
    os.write(answers, f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _be_command(request: dict[str, Any], out: int, err: int) -> None:
    """Become the console script, and end as Python ends."""
    code: object = 1
    try:
        if request["session"]:
            os.setsid()
        for descriptor, standard in ((out, 1), (err, 2)):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        # As from a terminal, however the tests were started.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        _renew_locks()
        if BLANK_CHARTS in os.environ:
            Figure.savefig = save_blank  # type: ignore[method-assign]
            FigureCanvasAgg.draw = FigureCanvasAgg.get_renderer  # type: ignore[method-assign]
        if "code" in request:
            sys.argv = ["-c", *request["words"]]
            exec(request["code"], {"__name__": "__main__"})
        else:
            script = Path(sys.executable).with_name(request["command"])
            sys.argv = [str(script), *request["words"]]
            # `-c` put the current folder there.
            sys.path[0] = str(script.parent)
            importlib.import_module(MAINS[request["command"]]).main()
        code = 0
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = 120
    os._exit(code or 0)


def _import_everything() -> None:
    import wgan_cli

    for module in pkgutil.walk_packages(wgan_cli.__path__, "wgan_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)
    # Hydra looks for its plugins once.
    from wgan_cli.commands.composition import Composer

    Composer().compose([])
    # Matplotlib looks for its fonts at the first text that it draws.
    figure = Figure()
    figure.subplots().set_title("a title")
    figure.savefig(io.BytesIO())


def _renew_locks() -> None:
    """tqdm shares a lock between all processes: one that is killed with it would stop the rest."""
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _importable() -> list[str]:
    """Where the server finds this module and the package that is tested."""
    import wgan_cli

    places = [Path(__file__).parent, Path(wgan_cli.__file__).parent.parent]
    inherited = os.environ.get("PYTHONPATH")
    return [*map(str, places), *([inherited] if inherited else [])]
