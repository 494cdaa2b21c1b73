"""`wgan-eval`: evaluate a run's checkpoints on held-out data."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wgan_cli.commands.cli import (
    add_run_arguments,
    entry_point,
    exit_code_of,
    print_error,
    print_text,
)
from wgan_cli.errors import CheckpointError, ConfigError, DataError
from wgan_cli.run_folder import CONFIG
from wgan_cli.schema import METRICS
from wgan_cli.validation import nearest

log = logging.getLogger("wgan_cli")


def run(command_line: Sequence[str]) -> int:
    """Run `wgan-eval` with these arguments; return the exit code."""
    arguments = _parser().parse_args(command_line)
    return exit_code_of(
        "wgan-eval",
        lambda: _evaluate(arguments),
        smaller="; try smaller --n and --n-features.",
        interrupted="; checkpoints done are written.",
    )


main = entry_point(run)


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
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser


def _evaluate(arguments: argparse.Namespace) -> int:
    metrics = None if arguments.metrics is None else _tags(arguments.metrics)
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

    # The imports below need torch, which takes seconds to import.
    from wgan_cli import build
    from wgan_cli.commands import checkpoints
    from wgan_cli.commands.evaluation_report import Bar, Report
    from wgan_cli.commands.logs import console_log
    from wgan_cli.commands.resume import refuse_other_samples
    from wgan_cli.commands.trust import check_trusted
    from wgan_cli.config import fill, validate
    from wgan_cli.evaluation.registry import all_metrics, curve_metrics
    from wgan_cli.machine import choose_machine, find_device, set_up_torch
    from wgan_cli.run_folder import RunFolder
    from wgan_cli.training.checkpoint import check_whole, find_checkpoints, load_checkpoint

    state, path, folder = checkpoints.chosen_checkpoint(_asked_path(arguments))
    generator = checkpoints.trusted_generator(state, path, arguments.trust, raw=arguments.raw)
    # Loggers need not be trusted, because this command builds none.
    without_loggers = {key: node for key, node in state["config"].items() if key != "logger"}
    check_trusted(without_loggers, arguments.trust)
    config, _ = fill(validate(_adapted(state["config"], arguments)))
    device = find_device(config.device)
    machine = choose_machine(config, device)
    set_up_torch(machine, device, deterministic=config.deterministic)
    try:
        dataset = build.build_dataset(config)
    except DataError as error:
        key = _path_setting(config.dataset)
        hint = "" if key is None else f" Here --root PATH replaces dataset.{key}."
        raise DataError(f"{error}{hint}") from None
    refuse_other_samples(state, list(dataset.sample_shape), build.classes_of(config, dataset))
    usual = curve_metrics if arguments.all_checkpoints else all_metrics
    asked = dataclasses.replace(config, metrics=metrics or usual(dataset))
    complete_config = build.complete(asked, machine, dataset, training=False)
    constraint = build.build_constraint(complete_config)
    facts = complete_config, constraint, dataset.sample_shape, state.get("classes")
    checkpoints.refuse_misfit(lambda: build.build_critic(*facts), state["critic"])
    critic = build.build_critic(*facts)
    critic.to(device)
    generator.to(device)
    with console_log(), Bar() as bar:
        evaluation = build.build_evaluation(complete_config, dataset, constraint, device)
        evaluation.on_metric = bar.show
        report = Report(
            RunFolder(folder),
            checkpoints.generator_key(state, raw=arguments.raw),
            evaluation,
            series=arguments.all_checkpoints,
        )
        # A run that is still training may remove some of these checkpoints.
        paths = find_checkpoints(path.parent) if arguments.all_checkpoints else [path]
        bar.reset(len(paths))
        for path in paths:
            if arguments.all_checkpoints:
                try:
                    state = load_checkpoint(path)
                    check_whole(state, path)
                except CheckpointError as error:
                    log.warning("%s It is skipped.", error)
                    continue
                key = checkpoints.generator_key(state, raw=arguments.raw)
                checkpoints.load_weights(generator, state[key])
            checkpoints.load_weights(critic, state["critic"])
            bar.start(state["step"])
            report.add(state["step"], path, evaluation(generator, critic))
            bar.done(path)
    if not report.rows:
        raise CheckpointError(f"{folder} holds no checkpoint that can be read.")
    print_text(report.table())
    if report.unwritten:
        print_error(f"wgan-eval: {report.unwritten}")
    return report.exit_code


def _asked_path(arguments: argparse.Namespace) -> Path:
    """Return the path of the checkpoint that --checkpoint names; without the option, return RUN."""
    run: Path = arguments.run
    named: str | None = arguments.checkpoint
    if named is None:
        return run
    folder = run / "checkpoints"
    if named.isascii() and named.isdigit():
        path = folder / f"step_{int(named):08d}.pt"
    else:
        path = folder / Path(named).name
    elsewhere = Path(named).is_file() and not (path.exists() and path.samefile(named))
    if elsewhere or not path.is_file():
        names = ", ".join(sorted(path.name for path in folder.glob("step_*.pt")))
        raise CheckpointError(
            f"--checkpoint {named}: {run} has no such checkpoint; it has {names or 'none'}."
        )
    return path


def _adapted(saved: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the saved settings with the device, counts, seed and data path of the arguments."""
    asked = {
        "eval_samples": arguments.n,
        "feature_samples": arguments.n_features,
        "seed": arguments.seed,
    }
    machine = {"device": arguments.device, "threads": None, "compile": False}
    given = {key: value for key, value in asked.items() if value is not None}
    dataset = dict(saved["dataset"])
    if arguments.root is not None:
        key = _path_setting(dataset)
        if key is None:
            raise ConfigError(f"--root: {dataset.get('name')} is read from no folder or file.")
        dataset[key] = arguments.root
    return {**saved, **machine, **given, "dataset": dataset}


def _path_setting(dataset: Mapping[str, Any]) -> str | None:
    """Return the name of the setting for the path of the data set's files, or None without one."""
    return next((key for key in ("root", "path") if key in dataset), None)


def _tags(text: str) -> list[str]:
    """Parse a comma-separated list of metrics and return their full tags.

    The user may omit the part of a tag before the slash.
    """
    if not text.strip():
        raise ConfigError("--metrics names none; --help lists them.")
    short = {tag.rpartition("/")[2]: tag for tag in METRICS}
    tags = []
    for word in text.split(","):
        tag = short.get(word.strip(), word.strip())
        if tag not in METRICS:
            hint = nearest(tag, [*METRICS, *short])
            raise ConfigError(
                f"--metrics {word}: there is no such metric; --help lists them.{hint}"
            )
        tags.append(tag)
    return list(dict.fromkeys(tags))
