"""Reader processes work however Python starts them: macOS and Windows only know `spawn`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import TINY, assert_same_state, composed, trained
from test_streaming import BATCH, CPU, TRAINING, assert_same, read, streamed
from test_streaming import folder as folder

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Iterator[str]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("method")
def test_batches_are_those_in_memory_and_stop_signals_end_no_reader(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Windows can block none.
    monkeypatch.setattr("wgan_cli.data.reader_processes.signals_blocked", nullcontext)
    expected = read(folder, in_memory=True, workers=0, flip=True).feed(BATCH, 7, CPU)
    feed = streamed(folder, 1, flip=True).feed(BATCH, 7, CPU)
    caplog.clear()
    for update in range(3 * TRAINING // BATCH):
        assert_same(feed.batch(update), expected.batch(update))
        # A terminal sends Ctrl-C to all processes, and so does a scheduler with SIGTERM.
        for process in multiprocessing.active_children():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(process.pid or 0, number)
    assert len(multiprocessing.active_children()) == 1
    assert sum("cannot be read" in message for message in caplog.messages) == 2
    del feed
    assert multiprocessing.active_children() == []


# As the console script, which a spawned process imports.
SCRIPT = """
import multiprocessing, sys
from wgan_cli.commands.train import main

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv.pop(1))
    main()
"""


def test_a_run_with_spawned_readers_equals_one_with_forked_ones(folder: Path, here: Path) -> None:
    script = here / "train.py"
    script.write_text(SCRIPT)
    data = ["dataset=image_folder", f"dataset.root={folder}", "dataset.size=8", "batch_size=4"]
    streams = ["dataset.in_memory=false", "dataset.corrupt_limit=0.1"]
    words = [*TINY, *data, *streams, "metrics=[]", "logger=none"]
    words += ["dataset.workers=1", "hydra.run.dir=spawned"]
    assert trained(composed(words), here / "forked") == 0
    command = [sys.executable, str(script), "spawn", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_state(here / "forked", here / "spawned")
