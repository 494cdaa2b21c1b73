"""Shared fixtures: the real commands in a subprocess, and small configs built in the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Tests run side by side, and threads of two processes on one core wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

Command = Callable[..., subprocess.CompletedProcess[str]]

# Two steps of a narrow network: what a run writes, in the least time.
TINY = [
    "steps=2",
    "batch_size=16",
    "n_critic=2",
    "latent_dim=4",
    "threads=1",
    "device=cpu",
    "model.generator.width=8",
    "model.critic.width=8",
]

# What an option cannot be without.
COMPANIONS = {
    "model/lipschitz_mlp": ["constraint=none"],
    "model/parallel_lines": ["constraint=none", "dataset=parallel_lines", "latent_dim=1"],
    "model/resnet": ["dataset=mnist"],
}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trained classifiers are kept for the session, and never in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def wgan(tmp_path: Path) -> Command:
    """Runs `wgan-train WORDS`, or another console script, in a fresh folder."""

    def run(
        *words: str, command: str = "wgan-train", **more: Any
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **more.pop("env", {})}
        return subprocess.run(
            [str(Path(sys.executable).with_name(command)), *words],
            cwd=more.pop("cwd", tmp_path),
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            **more,
        )

    return run


def metrics_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def status_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["wgan-train"])
    return tmp_path


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
