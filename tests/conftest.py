"""Shared fixtures: the real commands in processes, and small configs built in the process."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.fork_server import BLANK_CHARTS, save_blank
from benchmarks.forked_commands import CommandServer
from benchmarks.tiny import TINY as TINY

# Tests run side by side, and threads of two processes on one core wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

Command = Callable[..., subprocess.CompletedProcess[str]]

# What an option cannot be without.
COMPANIONS = {
    "model/lipschitz_mlp": ["constraint=none"],
    "model/parallel_lines": ["constraint=none", "dataset=parallel_lines", "latent_dim=1"],
    "model/resnet": ["dataset=mnist"],
}


def exhaustive_beyond(usual: Iterable[Any], matrix: Iterable[Any]) -> list[Any]:
    """The cases of a matrix for `parametrize`; all but the `usual` run by `pytest -m exhaustive`.

    Raises ValueError for a usual case that the matrix does not have.
    """
    cases, kept = list(matrix), list(usual)
    if missing := [case for case in kept if case not in cases]:
        raise ValueError(f"not in the matrix: {missing}")
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if case in kept else pytest.mark.exhaustive,
        )
        for case in cases
    ]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trained classifiers are kept for the session, and never in the user's own cache."""
    base = tmp_path_factory.getbasetemp()
    # xdist gives each worker a folder in one that all share.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
        yield


@pytest.fixture(scope="session")
def command_server(
    own_cache: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CommandServer]:
    server = CommandServer(tmp_path_factory.mktemp("command_server") / "log.txt")
    yield server
    server.close()


@pytest.fixture
def wgan(command_server: CommandServer, tmp_path: Path) -> Command:
    """Runs `wgan-train WORDS`, or another console script, in a process forked for it."""

    def run(
        *words: str, command: str = "wgan-train", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return command_server.run(command, list(words), tmp_path, env)

    return run


@pytest.fixture
def shell(tmp_path: Path) -> Command:
    """The same by its installed script, for what concerns a fresh Python: imports, time, exit."""

    def run(
        *words: str, command: str = "wgan-train", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name(command)), *words],
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def composed(words: list[str]) -> Any:
    """What Hydra hands to a run: composing takes longer than a run of two steps."""
    from omegaconf import open_dict

    from wgan_cli.commands.composition import Composer

    config = Composer().compose(words)
    with open_dict(config):
        del config["hydra"]
    return config


def trained(config: Any, folder: Path, resume: str | None = None) -> int:
    """The exit code of a run in `folder` from what `composed` gives."""
    from wgan_cli.commands.run import execute

    config.resume = resume
    return execute(config, folder, [], sweep=False)


def metrics_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def status_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


def checkpoints_of(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step_*.pt"))


def state_of(folder: Path) -> dict[str, Any]:
    import torch

    return torch.load(checkpoints_of(folder)[-1], weights_only=True)


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    if isinstance(node, dict):
        pairs = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list | tuple):
        pairs = [(str(index), value) for index, value in enumerate(node)]
    else:
        return {path: node}
    return {
        key: leaf for name, value in pairs for key, leaf in leaves(value, f"{path}/{name}").items()
    }


def assert_same_state(one: Path, other: Path) -> None:
    """All that the newest checkpoints of two runs hold is equal, tensors bit for bit."""
    import torch

    first, second = leaves(state_of(one)), leaves(state_of(other))
    assert first.keys() == second.keys()
    tensors = 0
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            tensors += 1
            assert value.dtype == second[name].dtype
            assert torch.equal(value, second[name]), name
        else:
            assert value == second[name], name
    assert tensors > 10


def curves_of(run: Path) -> dict[str, list[int]]:
    """The steps of every curve and picture, as `tensorboard --load_fast=false` reads event files.

    HParams have no step.
    """
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    all_of = dict.fromkeys(("scalars", "images", "histograms", "text"), 0)
    events = EventAccumulator(str(run / "tensorboard"), tensor_size_guidance=all_of).Reload()
    tags = [tag for tag in events.Tags()["tensors"] if not tag.startswith("_hparams_")]
    return {tag: [event.step for event in events.Tensors(tag)] for tag in tags}


def assert_same_curves(one: Path, other: Path) -> None:
    """Equal numbers at equal steps in metrics.jsonl and event files, and each step once."""

    def timeless(run: Path) -> list[dict[str, float]]:
        return [
            {tag: value for tag, value in line.items() if not tag.startswith("throughput")}
            for line in metrics_of(run)
        ]

    lines = timeless(one)
    assert lines == timeless(other)
    curves = curves_of(one)
    assert curves == curves_of(other)
    for tag, steps in curves.items():
        assert steps == sorted(set(steps)), tag
    for tag in lines[-1].keys() - {"step"}:
        assert curves[tag] == [line["step"] for line in lines if tag in line]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["wgan-train"])
    return tmp_path


@pytest.fixture(autouse=True)
def blank_charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are blank, in forked commands too, unless a test is marked `charts`.

    Drawing them takes longer than most tests' training.
    """
    if request.node.get_closest_marker("charts"):
        return
    monkeypatch.setattr(Figure, "savefig", save_blank)
    monkeypatch.setattr(FigureCanvasAgg, "draw", FigureCanvasAgg.get_renderer)
    monkeypatch.setenv(BLANK_CHARTS, "1")


@pytest.fixture(autouse=True)
def no_handlers_of_hydra() -> Iterator[None]:
    """Remove the log handlers that Hydra adds: they write to the captured stream of one test."""
    yield
    for logger in (logging.getLogger(), logging.getLogger("hydra")):
        for handler in list(logger.handlers):
            if type(handler) is logging.StreamHandler:
                logger.removeHandler(handler)


@pytest.fixture
def quick_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classifiers train for 40 steps: enough where no test asks how often they are right."""
    from wgan_cli.metrics import classifier_training

    monkeypatch.setattr(classifier_training, "STEPS", 40)
    monkeypatch.setattr(classifier_training, "EPOCHS", 1)


def adam_updates(generator: Any, critic: Any, constraint: Any) -> Any:
    """`Updates` under the Wasserstein loss and Adam without momentum, the critic's rate higher."""
    import torch

    from wgan_cli.losses import Wasserstein
    from wgan_cli.training.updates import Updates

    return Updates(
        generator,
        critic,
        torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.0, 0.9)),
        torch.optim.Adam(critic.parameters(), lr=3e-3, betas=(0.0, 0.9)),
        Wasserstein(),
        constraint,
    )


@pytest.fixture
def one_seeded_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


# Prints {tag: [[step, value], ...]}, or null on a platform that the server is not built for: there
# TensorBoard always reads as `curves_of` does.
FAST_LOADER = """
import json, sys, time
from tensorboard.context import RequestContext
from tensorboard.data.server_ingester import (
    NoDataServerError, SubprocessServerDataIngester, get_server_binary
)
from tensorboard.util.grpc_util import ChannelCredsType

folder, last = sys.argv[1], int(sys.argv[2])
try:
    binary = get_server_binary()
except NoDataServerError:
    print("null")
    sys.exit()
server = SubprocessServerDataIngester(
    binary, folder, reload_interval=1, channel_creds_type=ChannelCredsType.LOCAL
)
server.start()
steps = []
until = time.monotonic() + 30
while last not in steps and time.monotonic() < until:
    time.sleep(0.1)
    runs = server.data_provider.read_scalars(
        RequestContext(), experiment_id="", plugin_name="scalars", downsample=1000
    )
    (curves,) = runs.values() or [{}]
    found = {tag: [[point.step, point.value] for point in curve] for tag, curve in curves.items()}
    steps = [step for curve in found.values() for step, _ in curve]
print(json.dumps(found))
"""


def fast_curves_of(run: Path, last: int) -> dict[str, list[list[float]]] | None:
    """Its [step, value] pairs by tag in TensorBoard's fast loader, read until step `last`."""
    asked = [sys.executable, "-c", FAST_LOADER, str(run / "tensorboard"), str(last)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    found: dict[str, list[list[float]]] | None = json.loads(done.stdout)
    return found
