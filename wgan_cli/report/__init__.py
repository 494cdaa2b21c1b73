"""Compare runs: which settings differ, how they rank, and whether the ranking may be chance."""

from wgan_cli.report.report import Report
from wgan_cli.report.runs import Run, read_runs

__all__ = ["Report", "Run", "read_runs"]
