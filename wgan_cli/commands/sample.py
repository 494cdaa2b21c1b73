"""`wgan-sample`: draw samples from a run's generator, without its data set."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wgan_cli.commands.cli import (
    add_run_arguments,
    entry_point,
    exit_code_of,
    path_argument,
    print_text,
    shown,
)
from wgan_cli.errors import CheckpointError, ConfigError, DivergedError
from wgan_cli.files import reading

_CHUNK = 256
_COLUMNS = 8


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
    from wgan_cli.guard import inside

    state, path, run = chosen_checkpoint(arguments.run)
    config = state["config"]
    generator = trusted_generator(state, path, arguments.trust, raw=arguments.raw)
    chosen: int | None = arguments.label
    classes: int = state.get("classes") or 0
    rows_of_classes = classes > 0 and chosen is None
    count = arguments.n or _COLUMNS * (classes if rows_of_classes else 8)
    labels = _labels(classes, chosen, count)
    samples = _draw(generator, config["latent_dim"], count, arguments.seed, labels)
    if not samples.isfinite().all():
        raise DivergedError(f"The generator in {path} gives samples that are NaN or infinite.")
    if out is None:
        of_class = "" if chosen is None else f"_class{chosen}"
        name = f"n{count}_seed{arguments.seed}{of_class}.png"
        in_run = (run / "samples").is_dir()
        out = inside(run, "samples", name) if in_run else inside(Path.cwd(), name)
    _write(out, samples, columns=_COLUMNS if rows_of_classes else None)
    print_text(f"{count} samples: {shown(out)}")
    return 0


def _labels(classes: int, chosen: int | None, count: int) -> Any:
    """Return a class for each sample (count,), or None if the run is not conditional."""
    import torch

    if chosen is None:
        return torch.arange(count) // _COLUMNS % classes if classes else None
    if not classes:
        raise ConfigError(f"--class {chosen}: the run is not conditional; leave it out.")
    if not 0 <= chosen < classes:
        raise ConfigError(f"--class {chosen}: the run's classes are 0 to {classes - 1}.")
    return torch.full((count,), chosen)


def _draw(generator: Any, latent_dim: int, count: int, seed: int, labels: Any) -> Any:
    """Generate samples (count, *shape) in eval mode. Sample i does not depend on `count`."""
    import torch

    from wgan_cli.evaluation.sampling import generate
    from wgan_cli.machine import most_threads
    from wgan_cli.randomness import Draws, Stream

    torch.set_num_threads(most_threads())
    cpu = torch.device("cpu")
    parts = []
    for chunk, start in enumerate(range(0, count, _CHUNK)):
        draws = Draws(seed, Stream.SAMPLES, step=1, inner=chunk)
        latent = draws.normal((_CHUNK, latent_dim), cpu)[: count - start]
        classes = None if labels is None else labels[start : start + _CHUNK]
        parts.append(generate(generator, latent, classes))
    return torch.cat(parts)


def _write(path: Path, samples: Any, columns: int | None) -> None:
    import numpy as np

    from wgan_cli.data.feeds import to_bytes
    from wgan_cli.files import write_atomically
    from wgan_cli.pictures import grid, points, save_png

    images = samples.ndim == 4
    if path.suffix == ".npy":
        file = io.BytesIO()
        np.save(file, to_bytes(samples).numpy() if images else samples.numpy())
        with file.getbuffer() as data:
            write_atomically(path, data)
    elif images:
        columns = columns or max(_COLUMNS, int(len(samples) ** 0.5))
        save_png(path, grid(to_bytes(samples), columns=columns))
    elif samples.shape[1:] == (2,):
        save_png(path, points(samples.numpy()))
    else:
        raise ConfigError(
            f"Samples of shape {tuple(samples.shape[1:])} make no picture: name a .npy file."
        )
