"""The end of a sweep: a line a job."""

from __future__ import annotations

from pathlib import Path

from wgan_cli.rundir import STATUS, RunFolder


def summarise(sweep: Path, count: int) -> int:
    """Print a line for each job of a sweep's folder; returns 1 where one did not finish, else 0.

    Of `count` jobs some may have left nothing, where the disk was full.
    """
    jobs = {str(path.parent.relative_to(sweep)): path.parent for path in sweep.rglob(STATUS)}
    names = sorted(jobs, key=lambda name: (not name.isdigit(), name.zfill(9)))
    failed = 0
    print(f"\n{len(jobs)} jobs in {sweep}:")
    for name in names:
        job = RunFolder(jobs[name])
        status = job.read_status()
        state = status.get("state", "unknown")
        failed += state != "finished"
        distance = status.get("final", {}).get("wasserstein/exact")
        result = f"exact W1 {distance:.4g}" if distance is not None else status.get("message", "")
        words = " ".join(job.read_overrides()) or "(defaults)"
        print(f"  {name:>3}  {state:<11}  {words}  {result}".rstrip())
    lost = max(0, count - len(jobs))
    if lost:
        print(f"  and {lost} of which nothing could be written")
    return 1 if failed or lost else 0
