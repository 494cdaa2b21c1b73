"""Compare runs: which settings differ, how they rank, and whether the ranking may be chance."""

from __future__ import annotations

from pathlib import Path

from wgan_cli.files import write_atomically
from wgan_cli.guard import inside
from wgan_cli.report.comparison import Comparison
from wgan_cli.report.runs import Run, read_runs
from wgan_cli.report.writers.tables import csv_table, terminal_table
from wgan_cli.run_folder import make_folder

__all__ = ["Report", "Run", "read_runs"]

CSV, PAGE, PICTURE = "summary.csv", "report.html", "report.png"


class Report(Comparison):
    """A comparison of runs that can be printed and written to files."""

    def table(self, width: int | None = None) -> str:
        """Return the table of ranked runs, wrapped at `width` characters unless `width` is None."""
        return terminal_table(self, width)

    def write(self, folder: Path) -> list[Path]:
        """Write `summary.csv`, `report.html` and `report.png`, each completely or not at all.

        Returns their paths. Raises `DiskError`, or `CheckpointError` for a link that leads
        elsewhere.
        """
        # Import here: matplotlib and jinja2 take almost a second, and the table needs neither.
        from wgan_cli.report.writers.drawing import picture
        from wgan_cli.report.writers.page import page

        make_folder(folder)
        contents = {
            CSV: csv_table(self).encode(),
            PAGE: page(self).encode(),
            PICTURE: picture(self),
        }
        for name, content in contents.items():
            write_atomically(inside(folder, name), content, durable=False)
        return [folder / name for name in contents]
