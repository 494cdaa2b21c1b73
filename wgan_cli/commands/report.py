"""`wgan-report`: compare runs in a ranked table and an HTML page with curves and samples."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from wgan_cli.commands.cli import entry_point, exit_code_of, path_argument, print_error, shown
from wgan_cli.errors import CheckpointError
from wgan_cli.files import reading
from wgan_cli.terminal_text import printable


def run(command_line: Sequence[str]) -> int:
    """Run `wgan-report` with these arguments; return the exit code."""
    arguments = _parser().parse_args(command_line)
    return exit_code_of("wgan-report", lambda: _report(arguments))


main = entry_point(run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wgan-report",
        description="Compare runs, sweeps' jobs or any others, finished or not: settings ranked by"
        " mean and standard deviation over seeds, curves, samples. Prints a table and writes"
        " report.html, report.png and summary.csv.",
    )
    parser.add_argument(
        "folders",
        type=path_argument,
        nargs="+",
        metavar="DIR",
        help="a run, or a folder with runs below it",
    )
    parser.add_argument(
        "--by", metavar="TAG", help="what ranks the settings (default: wasserstein/exact)"
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="FOLDER",
        help="where the files go (default: DIR if there is one, else the current folder)",
    )
    parser.add_argument(
        "--storage",
        action="append",
        default=[],
        metavar="URL",
        help="a database outside DIR that holds a search's study, as given to wgan-search",
    )
    return parser


def _report(arguments: argparse.Namespace) -> int:
    for folder in arguments.folders:
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: there is no such folder.")
        with reading(folder, CheckpointError):
            os.scandir(folder).close()

    # Import slow modules only here, so that the mistakes above are reported at once.
    from wgan_cli.report import Report, read_runs
    from wgan_cli.report.runs import apply_trial_states
    from wgan_cli.report.writers.tables import screen_width
    from wgan_cli.search.database import absolute_url
    from wgan_cli.search.study import read_study

    folders: list[Path] = arguments.folders
    runs = read_runs(folders)
    if not runs:
        names = ", ".join(map(str, folders))
        raise CheckpointError(
            f"{names}: there is no run in or below it; a run is a folder with status.json or"
            " config.yaml."
        )
    title = ", ".join(str(shown(folder)) for folder in folders)
    studies = []
    named = [absolute_url(url) for url in arguments.storage]
    for folder in folders:
        try:
            study = read_study(folder, named)
        except CheckpointError as error:
            print_error(f"wgan-report: {error} The report leaves this study out.")
            continue
        if study is not None:
            apply_trial_states(runs, folder, study)
            studies.append(study)
    report = Report(runs, by=arguments.by, title=title, studies=studies)
    _print(report.table(screen_width()))
    out = arguments.out or (folders[0] if len(folders) == 1 else Path())
    page = next(path for path in report.write(out) if path.suffix == ".html")
    _print(printable(f"\nThe page: {shown(page)}", "\n"))
    return 0


def _print(text: str) -> None:
    """Print the text, with `?` for characters that stdout cannot encode. Ignore a closed pipe."""
    encoding = sys.stdout.encoding or "utf-8"
    with suppress(BrokenPipeError):
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
