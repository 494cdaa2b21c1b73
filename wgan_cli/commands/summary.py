"""What is said at the end of a run: its numbers, or how to go on."""

from __future__ import annotations

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
from wgan_cli.run_folder import RunFolder


def how_to_go_on(error: WganError, path: Path, composed: DictConfig) -> str:
    """What to type after this error to go on with the run in `path`, or nothing."""
    again = f"{Process.current().command} {typeable('resume', path)}"
    if isinstance(error, InterruptedRunError | PreemptedError):
        return f" Saved; go on with: {again}"
    kept = any((path / "checkpoints").glob("step_*.pt"))
    if isinstance(error, DiskError) and kept:
        return f" Then go on with: {again}"
    if isinstance(error, DivergedError) and kept and composed.on_divergence == "stop":
        return f" Back to the last checkpoint at a lower rate: {again} on_divergence=rollback"
    if isinstance(error, RankError) and kept:
        return f" The run goes on with: {again}"
    if isinstance(error, OutOfMemoryError) and kept:
        return f" Where more memory is free, the run goes on with: {again}"
    return ""


def summary(folder: RunFolder) -> str:
    """The last words of a finished run."""
    status = folder.read_status()
    points = [p for p in folder.read_metrics() if "critic/wasserstein" in p]
    first, last = points[0], points[-1]
    peak = max(points, key=lambda p: p["critic/wasserstein"])
    # What was measured at the last step; `final` may hold an earlier start's metrics too.
    final = points[-1]
    pictures = sorted(folder.samples.glob("step_*.png"))
    lines = [
        f"Finished {status['steps']} steps in {status['seconds']:.0f} s.",
        f"  Wasserstein estimate  {first['critic/wasserstein']:.4g} at step {first['step']},"
        f" {last['critic/wasserstein']:.4g} at step {last['step']}"
        f" (peak {peak['critic/wasserstein']:.4g} at {peak['step']})",
    ]
    if "wasserstein/exact" in final:
        lines.append(
            f"  exact W1 to held-out  {final['wasserstein/exact']:.4g}"
            f" (real against real {final['wasserstein/exact_real_real']:.4g},"
            f" n = {final['wasserstein/exact_n']:.0f})"
        )
    if "wasserstein/normalized" in final:
        lines.append(
            f"  the critic's own W1   {final['wasserstein/normalized']:.4g}"
            " (its estimate on the same samples over K)"
        )
    if pictures:
        lines.append(f"  last samples          {pictures[-1]}")
    # In the current folder, the topmost folder shows this run beside the others.
    inside = folder.path.parts and not folder.path.is_absolute()
    logdir = folder.path.parts[0] if inside else folder.path
    lines.append(f"  curves                tensorboard --logdir {logdir}")
    lines.append(f"  more samples          wgan-sample {folder.path}")
    lines.append(f"  more numbers          wgan-eval {folder.path}")
    return "\n".join(lines)
