"""Many runs on one page: what varied, what came of it, and whether that is more than chance."""

from wgan_cli.report.report import Report
from wgan_cli.report.runs import Run, read_runs

__all__ = ["Report", "Run", "read_runs"]
