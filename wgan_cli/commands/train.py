"""`wgan-train`: parse, compose, check, then hand over to Hydra, which calls `task` for each run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from wgan_cli import __version__
from wgan_cli.commands.cli import answered_while_training, leave
from wgan_cli.commands.help import help_text
from wgan_cli.config import as_dict, configs_folder, fill, refuse_missing_packages, validate
from wgan_cli.distributed.process import Process, refuse_in_several, refuse_uneven
from wgan_cli.errors import ConfigError, FolderInUseError, PreemptedError, WganError
from wgan_cli.files import disk_error
from wgan_cli.rules import check_rules
from wgan_cli.stop_signals import StopSignals

if TYPE_CHECKING:
    from argparse import Namespace

    from omegaconf import DictConfig

    from wgan_cli.commands.composition import Composer

# Set by `task`, which Hydra calls and whose return value it drops: the first that is not 0.
_exit_code = 0


def main() -> NoReturn:
    """The console script."""
    leave(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """Run the command line; returns the exit code. A user's mistake is one sentence on stderr.

    Where torchrun started several processes, only rank 0 reads the words.
    """
    place = Process.current()
    if place.world == 1:
        return _answered(words, lambda: None)
    with StopSignals() as signals:
        # An import of torch that is cut short cannot be done again, and the others are to hear why.
        from wgan_cli.commands.torchrun import follow, group_of, lead

        group = group_of(place)
    return lead(group, signals, partial(_answered, words)) if group.leads else follow(group)


def _answered(words: Sequence[str], why_asked: Callable[[], WganError | None]) -> int:
    idle = PreemptedError("asked to stop while nothing was training.")
    return answered_while_training(
        "wgan-train", lambda: _run(list(words)), lambda: why_asked() or idle
    )


def _run(words: list[str]) -> int:
    if "--version" in words:
        print(f"wgan-train {__version__}")
        return 0
    trusted = _take(words, "--trust")
    if "-h" in words or "--help" in words:
        own = _take(words, "--config-dir", "-cd")
        print(help_text(configs_folder(), Path(own[-1]) if own else None))
        return 0

    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    arguments = parser.parse_intermixed_args(words)
    if arguments.config_path or arguments.experimental_rerun:
        _refuse("--config-path and --experimental-rerun are not supported; use --config-dir")
    if arguments.shell_completion or arguments.info or arguments.hydra_help:
        return _hand_over(words)
    return _train(arguments, trusted)


def _train(arguments: Namespace, trusted: Sequence[str]) -> int:
    from wgan_cli.commands.composition import quoted, typed_value
    from wgan_cli.commands.resume import refuse_changes, run_of
    from wgan_cli.run_folder import CONFIG, read_config, remove_if_empty

    overrides = list(arguments.overrides)
    sweep, place = arguments.multirun, Process.current()
    refuse_in_several(place, sweep=sweep)
    resume = typed_value(overrides, "resume")
    if sweep and resume not in (None, "auto"):
        raise ConfigError(
            "resume=RUN goes on with one run and -m starts many; to go on with a sweep, start it"
            " again with its hydra.sweep.dir."
        )
    composer = _composer(arguments, overrides, resume, trusted)
    if resume == "auto" and not sweep:
        own = _named_folder(composer.compose(overrides), "run")
        if any((own / "checkpoints").glob("step_*.pt")):
            resume = str(own)
            overrides.append(f"resume={quoted(resume)}")
            composer = _composer(arguments, overrides, resume, trusted)
    flags = ["--config-name", composer.config_name]
    if composer.config_dir is not None:
        flags += ["--config-dir", str(composer.config_dir)]
    if arguments.cfg:
        composer.compose(composer.jobs(overrides)[0] if sweep else overrides)
        shown = ["--cfg", arguments.cfg, *(["--resolve"] if arguments.resolve else [])]
        package = ["--package", arguments.package] if arguments.package else []
        return _hand_over([*overrides, *flags, *shown, *package])
    if sweep:
        for words in composer.samples(overrides):
            composed = composer.compose(words)
            validate(_without_hydra(composed))
        folder = _new_folder(composed, "sweep", overrides)
        from wgan_cli.commands.sweep import run_jobs
        from wgan_cli.commands.sweep_job import Launcher

        words = [*overrides, f"hydra.sweep.dir={quoted(str(folder))}", *flags, "-m"]
        jobs, launcher = composer.jobs(overrides), Launcher.of(composed.hydra)
        if launcher is Launcher.LOCAL:
            # It starts all jobs at once, each with as many threads as the machine has cores.
            share = max(1, (os.cpu_count() or 1) // len(jobs))
            os.environ.setdefault("OMP_NUM_THREADS", str(share))
        # Else Hydra answers by a traceback where it cannot write its own multirun.yaml.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        try:
            return run_jobs(folder, jobs, launcher, lambda: _hand_over(words))
        except OSError as error:
            raise disk_error(error, folder / "multirun.yaml") from None
        finally:
            remove_if_empty(folder)
    composed = composer.compose(overrides)
    config = validate(_without_hydra(composed))
    check_rules(config)
    refuse_uneven(place, config.batch_size, going_on=resume not in (None, "auto"))
    refuse_missing_packages(config)
    filled, _ = fill(config)
    if resume not in (None, "auto"):
        run_folder = run_of(Path(str(resume)))
        refuse_changes(read_config(run_folder / CONFIG), as_dict(filled), run_folder)
    folder = _run_folder(composed, overrides, resume)
    try:
        return _hand_over([*overrides, f"hydra.run.dir={quoted(str(folder))}", *flags])
    finally:
        remove_if_empty(folder)


def task(config: DictConfig) -> None:
    """One run, or one job of a sweep, as Hydra calls it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from wgan_cli.commands.run import execute
    from wgan_cli.commands.sweep_job import Launcher
    from wgan_cli.commands.sweep_workers import in_worker, own_gpu
    from wgan_cli.run_folder import remove_if_empty

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    overrides = [str(word) for word in hydra.overrides.task]
    sweep = hydra.mode == RunMode.MULTIRUN

    def job() -> int:
        with own_gpu(config.device) as config.device:
            return execute(config, folder, overrides, sweep=sweep)

    global _exit_code
    if sweep and Launcher.of(hydra) is Launcher.JOBLIB:
        code = in_worker(Path(hydra.sweep.dir), job)
        remove_if_empty(folder)
    else:
        code = execute(config, folder, overrides, sweep=sweep)
    _exit_code = _exit_code or code


def _composer(
    arguments: Namespace, overrides: Sequence[str], resume: str | None, trusted: Sequence[str]
) -> Composer:
    """What composes this command: the shipped configs, a user's own, or a run's saved config."""
    from wgan_cli.commands.composition import PRIMARY, Composer, register_saved
    from wgan_cli.commands.resume import run_of, saved_config

    own = Path(arguments.config_dir).absolute() if arguments.config_dir else None
    name = (arguments.config_name or PRIMARY).removesuffix(".yaml")
    if resume is None or resume == "auto":
        if own is None or not (own / f"{name}.yaml").is_file():
            return Composer(name, own)
        from wgan_cli.run_folder import read_config

        if arguments.config_name is None and "defaults" in read_config(own / f"{name}.yaml"):
            return Composer(name, own)
        saved = saved_config(own / f"{name}.yaml", trusted)
    else:
        saved = saved_config(run_of(Path(resume)) / "config.yaml", trusted)
    return Composer(register_saved(saved, overrides), own)


def _run_folder(composed: DictConfig, overrides: Sequence[str], resume: str | None) -> Path:
    """Where the run goes, made: its own folder, or the one it goes on in."""
    from wgan_cli.run_folder import make_folder

    if resume == "auto":
        folder = _named_folder(composed, "run")
    elif resume is not None and Path(resume).is_dir():
        folder = Path(resume)
    else:
        return _new_folder(composed, "run", overrides)
    make_folder(folder)
    return folder


def _named_folder(composed: DictConfig, mode: str) -> Path:
    """What hydra.run.dir or hydra.sweep.dir says."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        name = composed.hydra[mode].dir
    except OmegaConfBaseException as error:
        raise ConfigError(f"hydra.{mode}.dir: {str(error).splitlines()[0]}.") from None
    if not name:
        raise ConfigError(f"hydra.{mode}.dir must name a folder.")
    return Path(name)


def _new_folder(composed: DictConfig, mode: str, overrides: Sequence[str]) -> Path:
    """The same, made: where the clock names it, one that no other start has."""
    from omegaconf import OmegaConf

    from wgan_cli.commands.composition import typed_value
    from wgan_cli.commands.paths import reserved
    from wgan_cli.run_folder import RunFolder, make_folder, taken_message

    folder = _named_folder(composed, mode)
    pattern = OmegaConf.to_container(composed.hydra[mode])
    assert isinstance(pattern, dict)
    if "${now:" in pattern["dir"] and typed_value(overrides, f"hydra.{mode}.dir") is None:
        return reserved(folder)
    if RunFolder(folder).holds_run():
        raise FolderInUseError(taken_message(folder))
    make_folder(folder)
    return folder


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message}; wgan-train --help shows what there is.")


def _without_hydra(composed: DictConfig) -> DictConfig:
    from omegaconf import open_dict

    plain = composed.copy()
    with open_dict(plain):
        del plain["hydra"]
    return plain


def _hand_over(words: list[str]) -> int:
    """Let Hydra parse these words and run `task`; returns what `task` left as exit code."""
    import hydra

    global _exit_code
    _exit_code = 0
    sys.argv = [sys.argv[0], *words]
    hydra.main(version_base="1.3", config_path=str(configs_folder()), config_name="train")(task)()
    return _exit_code


def _take(words: list[str], *flags: str) -> list[str]:
    """Remove `flag VALUE` and `flag=VALUE` from the words; returns the values."""
    values = []
    for place in reversed(range(len(words))):
        flag, equals, value = words[place].partition("=")
        if flag in flags:
            if not equals and place + 1 >= len(words):
                raise ConfigError(f"{flag} needs a value.")
            values.append(value if equals else words.pop(place + 1))
            del words[place]
    return values[::-1]
