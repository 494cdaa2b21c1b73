"""The progress bar on odd terminals, and under a clock that jumps."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import time
from pathlib import Path

import pytest
from conftest import TINY

from benchmarks.forked_commands import CommandServer, Start
from wgan_cli.progress_bar import ProgressBar


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Clocks:
    """Both clocks of a machine: `now` since its start, and `behind` by which its wall clock is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.behind = 1000.0, 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr("tqdm.std.time", lambda: 1e9 + self.now - self.behind)
        monkeypatch.setattr(sys, "stderr", Terminal())


def rate_and_left(bar: ProgressBar) -> tuple[float, float]:
    facts = bar.format_dict
    return facts["rate"], (facts["total"] - facts["n"]) / facts["rate"]


def steps(bar: ProgressBar, clocks: Clocks, count: int) -> None:
    """Ten steps a second."""
    for _ in range(count):
        clocks.now += 0.1
        bar.update()


@pytest.mark.parametrize("hours", [-3, 3], ids=["forward", "back"])
def test_a_wall_clock_that_is_set_changes_neither_rate_nor_time_left(
    hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks(monkeypatch)
    bar = ProgressBar(total=1000, smoothing=0.05)
    steps(bar, clocks, 100)
    clocks.behind = hours * 3600.0
    steps(bar, clocks, 100)
    assert rate_and_left(bar) == pytest.approx((10, 80))
    # It goes on showing, and has not stood still since the clock was set back.
    assert bar.last_print_n > 195
    assert bar.format_dict["elapsed"] == pytest.approx(20)


def test_after_a_pause_of_an_hour_the_time_left_is_right_within_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks = Clocks(monkeypatch)
    bar = ProgressBar(total=10_000, smoothing=0.05, mininterval=0.2)
    steps(bar, clocks, 100)
    clocks.now += 3600
    steps(bar, clocks, 600)
    assert rate_and_left(bar) == pytest.approx((10, 930), rel=0.1)


LONG = ["hydra.run.dir=run", "steps=40", "log_every=10", "metrics=[]"]


def shown_on(columns: int, server: CommandServer, folder: Path, **env: str) -> str:
    """What a run writes on a terminal of this width; 0 is a terminal that does not know it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", columns and 24, columns, 0, 0))
    start = Start(stdout=theirs, stderr=theirs)
    process = server.start("wgan-train", [*TINY, *LONG], folder, env, start)
    os.close(theirs)
    written = b""
    # At the end of the other side, reading fails.
    try:
        while data := os.read(ours, 65536):
            written += data
    except OSError:
        pass
    os.close(ours)
    assert process.wait(60) == 0
    return written.decode()


@pytest.mark.parametrize("columns", [0, 20, 40])
def test_the_bar_fits_into_one_line(
    columns: int, command_server: CommandServer, tmp_path: Path
) -> None:
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    written = shown_on(columns, command_server, tmp_path, **env)
    bars = [part for part in re.split(r"[\r\n]", written) if re.match(r" *\d+%", part)]
    assert len(bars) > 1
    assert max(map(len, bars)) <= (columns or 80)
    # A colour or a movement of the cursor would follow an escape character.
    assert "\x1b[" not in written
