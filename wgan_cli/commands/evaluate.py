"""`wgan-eval`: measure a run's checkpoints on held-out data."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from wgan_cli.commands.cli import add_run_arguments, answered, leave
from wgan_cli.errors import CheckpointError, ConfigError, DataError
from wgan_cli.run_folder import CONFIG
from wgan_cli.schema import METRICS
from wgan_cli.validation import nearest

if TYPE_CHECKING:
    from wgan_cli.commands.evaluation_report import Report


def main() -> NoReturn:
    """The console script."""
    leave(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """Evaluate as the words say; returns the exit code."""
    arguments = _parser().parse_args(words)

    def work() -> int:
        report = _evaluate(arguments)
        print(report.table())
        if report.unwritten:
            print(f"wgan-eval: {report.unwritten}", file=sys.stderr)
        return report.exit_code

    return answered(
        "wgan-eval",
        work,
        smaller="; try smaller --n and --n-features.",
        interrupted="; checkpoints done are written.",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wgan-eval",
        description="Measure a run's newest checkpoint on held-out data: distances with what real"
        " data score, the critic's constant, features, modes. Writes RUN/evaluation.json.",
        epilog="metrics: " + ", ".join(METRICS),
    )
    add_run_arguments(parser)
    parser.add_argument(
        "--metrics",
        metavar="TAG,TAG",
        help="what to measure (default: all that applies; with --all-checkpoints what is quick,"
        " and fid_classifier)",
    )
    parser.add_argument(
        "--n", type=int, help="samples of each kind for distances (default: as the run)"
    )
    parser.add_argument(
        "--n-features",
        type=int,
        metavar="N",
        help="samples of each kind for features and modes (default: as the run)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", metavar="FILE", help="a checkpoint's path or step")
    which.add_argument(
        "--all-checkpoints",
        action="store_true",
        help="every checkpoint: curves, and their correlation with the critic's estimate",
    )
    parser.add_argument("--seed", type=int, help="another noise than the run's evaluations")
    parser.add_argument(
        "--root",
        metavar="PATH",
        help="where the data set's files are now: instead of its dataset.root, or dataset.path",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


def _evaluate(arguments: argparse.Namespace) -> Report:
    chosen = None if arguments.metrics is None else _tags(arguments.metrics)
    for flag, count in (("--n", arguments.n), ("--n-features", arguments.n_features)):
        if count is not None and count < 4:
            raise ConfigError(f"{flag} {count}: at least 4.")
    if not arguments.run.exists():
        raise CheckpointError(f"{arguments.run}: there is no such run folder or checkpoint.")
    if arguments.run.is_file():
        if not (arguments.run.absolute().parent.parent / CONFIG).is_file():
            raise CheckpointError(
                f"{arguments.run} is not a checkpoint in a run folder (RUN/checkpoints/step_N.pt)."
            )
        if arguments.checkpoint or arguments.all_checkpoints:
            raise ConfigError(f"{arguments.run} is a checkpoint; name its run folder instead.")

    # From here on torch is needed, which takes seconds to import.
    from wgan_cli.build import (
        build_constraint,
        build_critic,
        build_dataset,
        build_evaluation,
        classes_of,
    )
    from wgan_cli.commands.checkpoints import (
        chosen_checkpoint,
        generator_key,
        load_weights,
        trusted_generator,
    )
    from wgan_cli.commands.evaluation_report import Report, progress
    from wgan_cli.commands.trust import check_trusted
    from wgan_cli.config import validate
    from wgan_cli.evaluation.default_metrics import all_metrics, curve_metrics
    from wgan_cli.machine import choose_machine
    from wgan_cli.rules import check_rules
    from wgan_cli.run_folder import RunFolder
    from wgan_cli.training.checkpoint import check_whole, find_checkpoints, load_checkpoint

    logging.getLogger("wgan_cli").setLevel(logging.INFO)
    state, path, folder = chosen_checkpoint(_asked_for(arguments))
    generator = trusted_generator(state, path, arguments.trust, raw=arguments.raw)
    check_trusted(state["config"], arguments.trust)
    config = validate(_adapted(state["config"], arguments))
    device = choose_machine(config)
    try:
        dataset = build_dataset(config)
    except DataError as error:
        place = _place(config.dataset)
        hint = "" if place is None else f" Here --root PATH replaces dataset.{place}."
        raise DataError(f"{error}{hint}") from None
    if list(dataset.sample_shape) != list(state["sample_shape"]):
        raise CheckpointError(
            f"The run's samples have shape {state['sample_shape']}, its data set's now"
            f" {list(dataset.sample_shape)}."
        )
    usual = curve_metrics if arguments.all_checkpoints else all_metrics
    config.metrics = chosen or usual(dataset)
    check_rules(config)
    constraint = build_constraint(config)
    classes = classes_of(config, dataset)
    if classes != state.get("classes"):
        raise CheckpointError(
            f"The run's networks know {state.get('classes')} classes, its data set has {classes}"
            " now."
        )
    critic = build_critic(config, constraint, dataset.sample_shape, classes).to(device)
    generator.to(device)
    with progress() as bar:
        evaluation = build_evaluation(config, dataset, constraint, device)
        evaluation.prepare()
        evaluation.watch = bar.show
        report = Report(
            RunFolder(folder),
            generator_key(state, raw=arguments.raw),
            evaluation,
            series=arguments.all_checkpoints,
        )
        # A run that goes on meanwhile adds some and drops some.
        paths = find_checkpoints(path.parent) if arguments.all_checkpoints else [path]
        bar.expect(len(paths))
        for path in paths:
            if arguments.all_checkpoints:
                try:
                    state = load_checkpoint(path)
                    check_whole(state, path)
                except CheckpointError as error:
                    bar.tell(f"{error} It is passed over.")
                    continue
                load_weights(generator, state[generator_key(state, raw=arguments.raw)])
            load_weights(critic, state["critic"])
            bar.start(state["step"])
            report.add(state["step"], path, evaluation(generator, critic))
            bar.done(path)
    if not report.findings:
        raise CheckpointError(f"{folder} holds no checkpoint that can be read.")
    return report


def _asked_for(arguments: argparse.Namespace) -> Path:
    """The path that RUN and --checkpoint mean together."""
    run: Path = arguments.run
    named: str | None = arguments.checkpoint
    if named is None:
        return run
    folder = run / "checkpoints"
    if named.isascii() and named.isdigit():
        found = folder / f"step_{int(named):08d}.pt"
    else:
        found = folder / Path(named).name
    elsewhere = Path(named).is_file() and not (found.exists() and found.samefile(named))
    if elsewhere or not found.is_file():
        there = ", ".join(sorted(path.name for path in (run / "checkpoints").glob("step_*.pt")))
        raise CheckpointError(
            f"--checkpoint {named}: {run} has no such checkpoint; it has {there or 'none'}."
        )
    return found


def _adapted(saved: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """The run's settings, but for the machine, sample counts, noise and where the data are."""
    asked = {
        "eval_samples": arguments.n,
        "feature_samples": arguments.n_features,
        "seed": arguments.seed,
    }
    machine = {"device": arguments.device, "threads": None, "compile": False}
    given = {key: value for key, value in asked.items() if value is not None}
    dataset = dict(saved["dataset"])
    if arguments.root is not None:
        place = _place(dataset)
        if place is None:
            raise ConfigError(f"--root: {dataset.get('name')} is read from no folder or file.")
        dataset[place] = arguments.root
    return {**saved, **machine, **given, "dataset": dataset}


def _place(dataset: dict[str, Any]) -> str | None:
    """The setting that says where a data set's files are."""
    return next((key for key in ("root", "path") if key in dataset), None)


def _tags(text: str) -> list[str]:
    """The metrics named, with or without what goes before the slash."""
    short: dict[str, Any] = {tag.rpartition("/")[2]: tag for tag in METRICS}
    tags = []
    if not text.strip():
        raise ConfigError("--metrics names none; --help lists them.")
    for word in text.split(","):
        tag = short.get(word.strip(), word.strip())
        if tag not in METRICS:
            hint = nearest(tag, [*METRICS, *short])
            raise ConfigError(
                f"--metrics {word}: there is no such metric; --help lists them.{hint}"
            )
        tags.append(tag)
    return list(dict.fromkeys(tags))
