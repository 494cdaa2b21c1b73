"""The server of `benchmarks.forked_commands`: it imports everything once, and then forks commands.

It never trains and has one thread, so each command finds the state of a fresh process, except that
modules are imported.
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
import resource
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NoReturn, TextIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import watching

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
# The most bytes of a request.
MESSAGE = 1 << 20
# A command with this variable in its environment draws blank charts.
BLANK_CHARTS = "WGAN_TESTS_BLANK_CHARTS"


_savefig = Figure.savefig


def save_blank(figure: Figure, file: Any, **how: Any) -> None:
    """Save a blank figure in place of this one; the arguments are those of `Figure.savefig`."""
    _savefig(Figure(figsize=(1, 1)), file, **how)


def serve(connected: int) -> None:
    """Import everything, then fork a command for each message until the socket is closed."""
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


def _be_command(request: dict[str, Any], out: int, err: int) -> NoReturn:
    """Become the console script, and end as Python ends."""
    code: object = 1
    try:
        _prepare(request, out, err)
        if "code" in request:
            sys.argv = ["-c", *request["words"]]
            _watch(request)
            exec(request["code"], {"__name__": "__main__"})
        else:
            script = Path(sys.executable).with_name(request["command"])
            sys.argv = [str(script), *request["words"]]
            # `-c` put the current folder there.
            sys.path[0] = str(script.parent)
            _watch(request)
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
            if stream is not None:
                stream.flush()
        except OSError:
            code = 120
    os._exit(code or 0)


def _watch(request: dict[str, Any]) -> None:
    if request["watch"]:
        watching.record(Path(request["watch"]))


def _prepare(request: dict[str, Any], out: int, err: int) -> None:
    """Make this process what the request's `Start` and environment say."""
    if request["new_session"]:
        os.setsid()
    for descriptor, standard in ((out, 1), (err, 2)):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    # As from a terminal, however the server was started.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    _renew_locks()
    if BLANK_CHARTS in os.environ:
        Figure.savefig = save_blank  # type: ignore[method-assign,assignment]
        FigureCanvasAgg.draw = FigureCanvasAgg.get_renderer  # type: ignore[method-assign]
    # The server may have asked for it.
    tempfile.tempdir = None
    # Python does what follows at its start, before a command runs.
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    sys.stdout = _stream(1, encoding, errors or "strict")
    sys.stderr = _stream(2, encoding, "backslashreplace")
    for number in request["closed"]:
        os.close(number)
        setattr(sys, {1: "stdout", 2: "stderr"}[number], None)
    if request["umask"] is not None:
        os.umask(request["umask"])
    if request["memory"] is not None:
        resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))


def _stream(descriptor: int, encoding: str, errors: str) -> TextIO:
    """Return a new stream: those of the server know whether its own files can be searched."""
    lines = 1 if descriptor == 2 else -1
    return open(descriptor, "w", lines, encoding=encoding or "utf-8", errors=errors, closefd=False)


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
    """Tqdm shares a lock between all processes: one that is killed with it would stop the rest."""
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
