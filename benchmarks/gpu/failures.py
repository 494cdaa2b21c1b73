"""Part 4: what happens when something goes wrong, each in a command of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.commands import Finished, at_once, stop_after_first_line, together, train
from benchmarks.gpu.processes import ROOT
from benchmarks.gpu.records import Work

# Losses and a critic of a user's own that a CUDA graph cannot hold.
OWN = '''
import torch
from torch import nn

from wgan_cli.losses import Wasserstein
from wgan_cli.models.mlp import Critic


class Waits(Wasserstein):
    """Reads a number in every update, so that the host waits for the device."""

    def critic(self, real_scores, fake_scores):
        if real_scores.mean().item() > 1e30:
            raise ValueError
        return super().critic(real_scores, fake_scores)


class Synchronizes(Wasserstein):
    """Waits for the whole device, which invalidates a capture."""

    def critic(self, real_scores, fake_scores):
        if real_scores.is_cuda:
            torch.cuda.synchronize()
        return super().critic(real_scores, fake_scores)


class CopiesFromTheHost(Wasserstein):
    """Copies pageable memory to the device and draws from the default generator."""

    def critic(self, real_scores, fake_scores):
        one = torch.tensor([1.0]).to(real_scores.device)
        noise = 0 * torch.rand(1, device=real_scores.device)
        real, fake = super().critic(real_scores, fake_scores)
        return real * one.squeeze(), fake + noise.squeeze()


class WaitingCritic(Critic):
    """Branches on a value of its scores."""

    def forward(self, samples):
        scores = super().forward(samples)
        return scores if bool((scores == scores).all()) else 2 * scores
'''
SMALL = ("device=cuda", "logger=none", "metrics=[]", "log_every=10", "graphs=true")
CAPTURES = {
    "a loss that reads a number": "loss._target_=gpu_bench_own.Waits",
    "a loss that synchronises": "loss._target_=gpu_bench_own.Synchronizes",
    "a loss that copies and draws": "loss._target_=gpu_bench_own.CopiesFromTheHost",
    "a critic that branches": "model.critic._target_=gpu_bench_own.WaitingCritic",
}
# On digits, the estimate of an unconstrained critic grows, and is infinite in about 25 steps.
DIVERGING = ("constraint=none", "optimizer=sgd", "optimizer.lr=0.2", "steps=200")


def run(work: Work) -> None:
    """Run the part."""
    own = work.folder / "own"
    own.mkdir(exist_ok=True)
    (own / "gpu_bench_own.py").write_text(OWN)
    cases: dict[str, Callable[[], object]] = {
        name: lambda name=name, word=word: _capture(work, name, word)  # type: ignore[misc]
        for name, word in CAPTURES.items()
    }
    cases["diverging"] = lambda: _gate(work, "NaN or infinity under graphs", DIVERGING)
    cases["diverging at once"] = lambda: _gate(
        work,
        "NaN or infinity in the first steps",
        ("constraint=none", "optimizer.lr=1e20", "steps=200"),
    )
    cases["rollback"] = lambda: _rollback(work)
    cases["SIGTERM"] = lambda: _sigterm(work)
    together(cases, at_once())
    # Alone, because others would run out of memory too.
    _out_of_memory(work)


def _run(work: Work, name: str, words: tuple[str, ...], **more: Any) -> Finished | None:
    if not work.has(5, name):
        return None
    paths = {"PYTHONPATH": f"{ROOT}:{work.folder / 'own'}"}
    run = work.folder / "failures" / name.replace(" ", "_")
    done = train(run, [*SMALL, *words], work.left, more=paths, **more)
    if done.timed_out:
        work.report.skipped(name, "cut off by the part's time")
        return None
    found = "Traceback" in done.stderr
    work.report.check(
        f"{name}: no traceback", not found, done.in_short() if found else "none", "none on stderr"
    )
    return done


def _code(work: Work, name: str, done: Finished, code: int, *, numbers: bool = False) -> None:
    work.report.check(
        f"{name}: exit code", done.code == code, done.in_short(code), code, numbers=numbers
    )


def status(run: Path | None) -> Mapping[str, Any]:
    """A run's status.json; empty if there is none."""
    try:
        found: Mapping[str, Any] = json.loads(
            (run or Path("none")).joinpath("status.json").read_text()
        )
    except (OSError, ValueError):
        return {}
    return found


def _capture(work: Work, name: str, word: str) -> None:
    done = _run(work, name, (word, "steps=60"))
    if done is None:
        return
    _code(work, name, done, 0)
    lines = done.without_graph
    work.report.check(f"{name}: one line", len(lines) == 1, lines, "one line says that it is eager")
    step = status(done.run).get("step")
    work.report.check(f"{name}: goes on to its end", step == 60, step, 60)


def _gate(work: Work, name: str, words: tuple[str, ...]) -> None:
    done = _run(work, name, (*words, "checkpoint_every=10"))
    if done is None:
        return
    _code(work, name, done, 5, numbers=True)
    state = status(done.run).get("state")
    work.report.check(f"{name}: state", state == "diverged", state, "diverged", numbers=True)
    assert done.run is not None
    finite = all(_finite(file) for file in (done.run / "checkpoints").glob("*.pt"))
    work.report.check(f"{name}: checkpoints are finite", finite, finite, True, numbers=True)


def _finite(file: Path) -> bool:
    state = torch.load(file, map_location="cpu", weights_only=True)
    return all(
        bool(weight.isfinite().all())
        for network in ("generator", "critic")
        for weight in state[network].values()
    )


def _rollback(work: Work) -> None:
    name = "rollback under graphs"
    more = ("on_divergence=rollback", "rollback.lr_factor=0.001", "checkpoint_every=10")
    done = _run(work, name, (*DIVERGING, *more))
    if done is None:
        return
    _code(work, name, done, 0)
    found = status(done.run)
    returns = len(found.get("returns", ()))
    work.report.check(f"{name}: goes back", 1 <= returns <= 3, returns, "1 to 3", numbers=True)
    work.report.check(f"{name}: reaches its end", found.get("step") == 200, found.get("step"), 200)
    # A second capture that fails says so.
    lines = done.without_graph
    work.report.check(f"{name}: captures again", not lines, lines or "yes", "no fallback")


def _sigterm(work: Work) -> None:
    name = "SIGTERM"
    run = work.folder / "failures" / name
    done = _run(work, name, ("steps=1000000",), during=stop_after_first_line(run))
    if done is None:
        return
    _code(work, name, done, 75)
    if "during" in done.noted:
        seconds = round(done.seconds - done.noted["during"], 2)
        work.report.fact("seconds from SIGTERM to the end", seconds)
    step = status(run).get("step") or 0
    resumed = _run(work, name, (f"resume={run}", f"steps={step + 20}"))
    if resumed is not None:
        _code(work, "SIGTERM, resumed", resumed, 0)


def _out_of_memory(work: Work) -> None:
    name = "out of memory"
    # One activation of the critic is larger than the device's memory; the weights are few.
    batch = 1_000_000
    width = int(1.2 * work.device["memory"] / (4 * batch)) + 1
    networks = ("model.generator.depth=1", "model.critic.depth=1", f"model.critic.width={width}")
    data = ("dataset=gaussians_ring", f"batch_size={batch}", "sample_every=1000000", "steps=20")
    done = _run(work, name, (*data, *networks))
    if done is None:
        return
    _code(work, name, done, 6)
    says = f"batch_size={batch // 2}"
    work.report.check(f"{name}: advice", says in done.stderr, done.in_short(), f"names {says}")
