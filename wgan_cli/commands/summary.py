"""Compose the message at the end of a run: its results, or how to resume it."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import DictConfig

from wgan_cli.commands.composition import typeable
from wgan_cli.distributed.process import Process
from wgan_cli.errors import (
    DiskError,
    DivergedError,
    InterruptedRunError,
    OutOfMemoryError,
    PreemptedError,
    RankError,
    WganError,
)
from wgan_cli.process_control import shell_words
from wgan_cli.run_folder import RunFolder
from wgan_cli.run_status import read_status


def resume_hint(error: WganError, path: Path, composed: DictConfig) -> str:
    """Return a sentence with the command that resumes the run in `path`, or "" if there is none."""
    command = f"{Process.current().command} {typeable('resume', path)}"
    if isinstance(error, InterruptedRunError | PreemptedError):
        return f" Saved; go on with: {command}"
    checkpoints = sorted((path / "checkpoints").glob("step_*.pt"))
    resumable = bool(checkpoints)
    if isinstance(error, DiskError) and resumable and not os.access(path, os.W_OK):
        fork = typeable("resume", checkpoints[-1])
        return f" In a folder of your own, it goes on with: {Process.current().command} {fork}"
    if isinstance(error, DiskError) and resumable:
        return f" Then go on with: {command}"
    if isinstance(error, DivergedError) and resumable and composed.on_divergence == "stop":
        return f" Back to the last checkpoint at a lower rate: {command} on_divergence=rollback"
    if isinstance(error, RankError) and resumable:
        return f" The run goes on with: {command}"
    if isinstance(error, OutOfMemoryError) and resumable:
        return f" Where more memory is free, the run goes on with: {command}"
    return ""


def summary(folder: RunFolder) -> str:
    """Return the summary of a finished run, as text for the terminal."""
    status = read_status(folder.path)
    points = [p for p in folder.read_metrics() if "critic/wasserstein" in p]
    # Do not use `status.final`: it may hold metrics that only an earlier start of the run computed.
    first, last = points[0], points[-1]
    peak = max(points, key=lambda p: p["critic/wasserstein"])
    pictures = sorted(folder.samples.glob("step_*.png"))
    lines = [
        f"Finished {status.steps} steps in {status.seconds or 0:.0f} s.",
        f"  Wasserstein estimate  {first['critic/wasserstein']:.4g} at step {first['step']},"
        f" {last['critic/wasserstein']:.4g} at step {last['step']}"
        f" (peak {peak['critic/wasserstein']:.4g} at {peak['step']})",
    ]
    if "wasserstein/exact" in last:
        lines.append(
            f"  exact W1 to held-out  {last['wasserstein/exact']:.4g}"
            f" (real against real {last['wasserstein/exact_real_real']:.4g},"
            f" n = {last['wasserstein/exact_n']:.0f})"
        )
    if "wasserstein/normalized" in last:
        lines.append(
            f"  the critic's own W1   {last['wasserstein/normalized']:.4g}"
            " (its estimate on the same samples over K)"
        )
    if pictures:
        lines.append(f"  last samples          {pictures[-1]}")
    if folder.tensorboard.is_dir():
        # If the run is inside the current folder, name the topmost folder: it shows other runs too.
        relative = folder.path.parts and not folder.path.is_absolute()
        logdir = folder.path.parts[0] if relative else folder.path
        lines.append(f"  curves                tensorboard --logdir {shell_words([str(logdir)])}")
    run = shell_words([str(folder.path)])
    lines.append(f"  more samples          wgan-sample {run}")
    lines.append(f"  more numbers          wgan-eval {run}")
    return "\n".join(lines)
