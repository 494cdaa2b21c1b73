"""Run commands in processes of their own, forked from a server that has imported everything once.

A console script takes 3 to 6 seconds to import torch and what builds on it; a fork of a process
that has done so takes milliseconds. What is forked is a process like any other: it has its own
folder, environment, signals, threads, stdout, stderr and exit code. The server never trains and has
one thread, so each command finds the state of a fresh process, except that modules are imported.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.fork_server import MESSAGE


@dataclass(frozen=True)
class Start:
    """How a command's process starts, if not as from an ordinary terminal.

    `stdout` and `stderr` are descriptors that replace the files which `communicate` reads, and
    `closed` names the streams (1 and 2) that the process does not have. `memory` is its largest
    address space in bytes. The events that `watching` records go to the file `watch`.
    """

    stdout: int | None = None
    stderr: int | None = None
    closed: tuple[int, ...] = ()
    umask: int | None = None
    memory: int | None = None
    watch: str | None = None
    new_session: bool = False


# From a terminal.
AS_USUAL = Start()


class ForkedProcess:
    """As much of `subprocess.Popen` as is needed here."""

    def __init__(self, args: Sequence[str], answers: IO[str], out: IO[str], err: IO[str]) -> None:
        self.args = args
        self.returncode: int | None = None
        self._answers, self._out, self._err = answers, out, err
        self.pid = int(answers.readline())

    def poll(self) -> int | None:
        """Return the exit code, or None if the process still runs."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code. Raises `subprocess.TimeoutExpired`."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return all that the process wrote to stdout and to stderr."""
        self.wait(timeout)
        written = []
        for file in (self._out, self._err):
            file.seek(0)
            written.append(file.read())
        return written[0], written[1]

    def send_signal(self, number: int) -> None:
        """Send a signal to the process if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL to the process if it still runs."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._answers], [], [], timeout)[0]:
            self.returncode = int(self._answers.readline())
        return self.returncode


class CommandServer:
    """Forks console scripts. The server's own output goes to the file `log`."""

    def __init__(self, log: Path) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log = log
        with log.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    f"from benchmarks import fork_server as f; f.serve({other.fileno()})",
                ],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_importable())},
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        other.close()
        assert self._socket.recv(MESSAGE) == b"ready", log.read_text(encoding="utf-8")

    def start(
        self,
        command: str,
        words: Sequence[str],
        cwd: Path,
        env: Mapping[str, str | None] | None = None,
        start: Start = AS_USUAL,
    ) -> ForkedProcess:
        """Start `COMMAND WORDS` in the folder `cwd`.

        `env` is added to this process's environment; None removes a variable.
        """
        return self._fork({"command": command, "words": list(words)}, cwd, env or {}, start)

    def python(
        self,
        code: str,
        words: Sequence[str],
        cwd: Path,
        env: Mapping[str, str | None] | None = None,
        start: Start = AS_USUAL,
    ) -> ForkedProcess:
        """Start `python -c CODE WORDS` in the folder `cwd`, with all modules imported."""
        return self._fork({"code": code, "words": list(words)}, cwd, env or {}, start)

    def _fork(
        self, what: dict[str, Any], cwd: Path, env: Mapping[str, str | None], start: Start
    ) -> ForkedProcess:
        variables = {
            name: value for name, value in {**os.environ, **env}.items() if value is not None
        }
        request = {**what, **asdict(start), "cwd": str(cwd), "env": variables}
        out, err = (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
            for _ in range(2)
        )
        reading, writing = os.pipe()
        standard = [
            file.fileno() if given is None else given
            for file, given in ((out, start.stdout), (err, start.stderr))
        ]
        socket.send_fds(self._socket, [json.dumps(request).encode()], [*standard, writing])
        os.close(writing)
        args = [what.get("command", "python"), *what["words"]]
        return ForkedProcess(args, os.fdopen(reading), out, err)

    def run(
        self, command: str, words: list[str], cwd: Path, env: Mapping[str, str | None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `COMMAND WORDS` in the folder `cwd`; return what it wrote and its exit code."""
        process = self.start(command, words, cwd, env)
        try:
            out, err = process.communicate(timeout=300)
        finally:
            process.kill()
        assert process.returncode is not None
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def close(self) -> None:
        """End the server."""
        self._socket.close()
        self._process.wait(timeout=60)


def _importable() -> list[str]:
    """Where the server finds this module and the package that is tested."""
    import wgan_cli

    places = [Path(wgan_cli.__file__).parent.parent, Path(__file__).parent.parent]
    inherited = os.environ.get("PYTHONPATH")
    return [*map(str, places), *([inherited] if inherited else [])]
