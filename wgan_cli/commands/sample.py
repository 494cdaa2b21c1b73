"""`wgan-sample`: draw samples from a run's generator, without its data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from wgan_cli.commands.cli import (
    add_run_arguments,
    entry_point,
    exit_code_of,
    path_argument,
    print_text,
    shown,
)
from wgan_cli.errors import CheckpointError, ConfigError, DivergedError, PreemptedError
from wgan_cli.files import reading
from wgan_cli.stop_signals import Terminated, leaving_when_asked


def run(command_line: Sequence[str]) -> int:
    """Run `wgan-sample` with these arguments; return the exit code."""
    arguments = _parser().parse_args(command_line)
    return exit_code_of("wgan-sample", lambda: _sample(arguments), smaller="; try a smaller --n.")


main = entry_point(run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wgan-sample",
        description="Draw samples from a run's newest checkpoint: a .png is a grid, a .npy holds"
        " the samples themselves (uint8 images of shape (n, C, H, W), or float32 points).",
    )
    add_run_arguments(parser)
    parser.add_argument(
        "--n", type=int, help="how many (default 64; of a conditional run eight of each class)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed, the same bytes (default 0)"
    )
    parser.add_argument(
        "--class",
        dest="label",
        type=int,
        metavar="K",
        help="of a conditional run, only this class, counted from 0 (default: eight of each in"
        " turn, so that a grid has a row a class)",
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        help="a .png or .npy file (default RUN/samples/n<n>_seed<seed>.png)",
    )
    return parser


def _sample(arguments: argparse.Namespace) -> int:
    if arguments.n is not None and not 1 <= arguments.n <= 10_000_000:
        raise ConfigError(f"--n {arguments.n}: at least 1 and at most 10000000.")
    if not 0 <= arguments.seed < 2**63:
        raise ConfigError(f"--seed {arguments.seed}: at least 0 and below 2**63.")
    out: Path | None = arguments.out
    if out is not None and out.suffix not in (".png", ".npy"):
        raise ConfigError(f"--out {out}: the name must end in .png or .npy.")
    if out is not None:
        with reading(f"--out {out}", ConfigError):
            found = out.absolute().parent.is_dir()
        if not found:
            raise ConfigError(f"--out {out}: there is no folder {out.absolute().parent}.")
    if not arguments.run.exists():
        raise CheckpointError(f"{arguments.run}: there is no such run folder or checkpoint.")

    # The imports below need torch, which takes seconds to import.
    from wgan_cli.commands.checkpoints import chosen_checkpoint, trusted_generator
    from wgan_cli.commands.sample_file import COLUMNS, draw, write
    from wgan_cli.guard import inside
    from wgan_cli.machine import keep_memory, most_threads, use_threads

    keep_memory()
    use_threads(most_threads())
    state, path, run = chosen_checkpoint(arguments.run)
    generator = trusted_generator(state, path, arguments.trust, raw=arguments.raw)
    chosen: int | None = arguments.label
    classes: int = state.get("classes") or 0
    _check_class(chosen, classes)
    rows_of_classes = classes > 0 and chosen is None
    count = arguments.n or COLUMNS * (classes if rows_of_classes else 8)
    if out is None:
        of_class = "" if chosen is None else f"_class{chosen}"
        name = f"n{count}_seed{arguments.seed}{of_class}.png"
        in_run = (run / "samples").is_dir()
        out = inside(run, "samples", name) if in_run else inside(Path.cwd(), name)
    latent_dim = state["config"]["latent_dim"]
    batches = draw(generator, latent_dim, count, arguments.seed, classes=classes, chosen=chosen)
    try:
        with leaving_when_asked():
            write(out, batches, count, rows_of_classes=rows_of_classes)
    except DivergedError as error:
        raise DivergedError(f"{path}: {error}") from None
    except Terminated:
        raise PreemptedError("asked to stop; nothing is written.") from None
    print_text(f"{count} samples: {shown(out)}")
    return 0


def _check_class(chosen: int | None, classes: int) -> None:
    """Raise `ConfigError` if the run, with this number of classes, does not have the class."""
    if chosen is None:
        return
    if not classes:
        raise ConfigError(f"--class {chosen}: the run is not conditional; leave it out.")
    if not 0 <= chosen < classes:
        raise ConfigError(f"--class {chosen}: the run's classes are 0 to {classes - 1}.")
