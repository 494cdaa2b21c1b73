"""`wgan-train`: parse the arguments, check the config, then let Hydra call `task` for each run.

Hydra and torch are imported only where they are needed, so that --help and error messages appear at
once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wgan_cli import __version__
from wgan_cli.commands import flags
from wgan_cli.commands.cli import entry_point, exit_code_of_training, print_text
from wgan_cli.commands.help import help_text
from wgan_cli.config import as_dict, configs_folder, fill, refuse_missing_packages, validate
from wgan_cli.distributed.process import Process, refuse_uneven
from wgan_cli.errors import ConfigError, PreemptedError, WganError
from wgan_cli.files import disk_error, reading
from wgan_cli.guard import inside
from wgan_cli.run_folder import CONFIG, read_config, remove_if_empty
from wgan_cli.stop_signals import StopSignals

if TYPE_CHECKING:
    from argparse import Namespace

    from omegaconf import DictConfig

    from wgan_cli.commands.composition import Composer

# The first nonzero exit code of `task`. It is kept here because `hydra.main` discards it.
_exit_code = 0


def run(arguments: Sequence[str]) -> int:
    """Run `wgan-train` with these arguments; return the exit code.

    A user's mistake is reported as one sentence on stderr. If torchrun started several processes,
    only rank 0 reads the arguments.
    """
    process = Process.current()
    if process.world == 1:
        return _run_command(arguments, lambda: None)
    with StopSignals() as signals:
        # Record signals during these imports: an interrupted import of torch cannot be repeated.
        from wgan_cli.commands.torchrun import run_follower, run_leader
        from wgan_cli.distributed.process_group import ProcessGroup, join_process_group

        group = join_process_group(process)
        assert isinstance(group, ProcessGroup)
    if group.leads:
        return run_leader(group, signals, partial(_run_command, arguments))
    return run_follower(group)


main = entry_point(run)


def _run_command(arguments: Sequence[str], reason: Callable[[], WganError | None]) -> int:
    """Run the command; return the exit code. `reason` returns another rank's failure, or None."""
    idle = PreemptedError("asked to stop while nothing was training.")
    return exit_code_of_training(
        "wgan-train", lambda: _dispatch(list(arguments)), lambda: reason() or idle
    )


def _dispatch(arguments: list[str]) -> int:
    if "--version" in arguments:
        print(f"wgan-train {__version__}")
        return 0
    trusted = flags.take(arguments, "--trust")
    if "-h" in arguments or "--help" in arguments:
        config_dirs = flags.take(arguments, "--config-dir", "-cd")
        with reading("--config-dir", ConfigError):
            print_text(help_text(configs_folder(), Path(config_dirs[-1]) if config_dirs else None))
        return 0
    parsed = flags.parse(arguments)
    if parsed.hydra_help:
        return _show(["--hydra-help"])
    if parsed.shell_completion:
        return _show(["-sc", *parsed.overrides])
    composer, overrides, resume = _compose(parsed, trusted)
    if parsed.cfg or parsed.info:
        from wgan_cli.commands.sweep_values import samples_of

        # Compose first, so that mistakes get this package's messages instead of Hydra's.
        if parsed.multirun:
            overrides = samples_of(composer.choices(overrides))[0]
        composer.compose(overrides)
        if parsed.info:
            shown = [f"--info={parsed.info}"]
        else:
            shown = ["--cfg", parsed.cfg, *(["--resolve"] if parsed.resolve else [])]
            shown += ["--package", parsed.package] if parsed.package else []
        return _show([*overrides, *composer.flags, *shown])
    if parsed.multirun:
        return _sweep(composer, overrides)
    return _single_run(composer, overrides, resume)


def _compose(parsed: Namespace, trusted: Sequence[str]) -> tuple[Composer, list[str], str | None]:
    """Return the composer, the overrides, and the run to resume: a path, "auto" or None."""
    from wgan_cli.commands.composition import quoted, typed_value
    from wgan_cli.commands.folders import named_folder

    overrides = list(parsed.overrides)
    resume = typed_value(overrides, "resume")
    # What -m means can also be typed so.
    if str(typed_value(overrides, "hydra.mode")).upper() == "MULTIRUN":
        parsed.multirun = True
    if parsed.multirun:
        flags.refuse_multirun(resume)
    composer = _composer(parsed, overrides, resume, trusted)
    if resume == "auto" and not parsed.multirun:
        folder = named_folder(composer.compose(overrides), "run")
        if any((folder / "checkpoints").glob("step_*.pt")):
            resume = str(folder)
            overrides.append(f"resume={quoted(resume)}")
            composer = _composer(parsed, overrides, resume, trusted)
    return composer, overrides, resume


def _composer(
    parsed: Namespace, overrides: Sequence[str], resume: str | None, trusted: Sequence[str]
) -> Composer:
    """Return a composer for the shipped configs, a user's configs or a run's saved config."""
    from wgan_cli.commands.composition import PRIMARY, Composer, register_saved
    from wgan_cli.commands.resume import run_of, saved_config

    config_dir = Path(parsed.config_dir).absolute() if parsed.config_dir else None
    name = (parsed.config_name or PRIMARY).removesuffix(".yaml")
    if resume is not None and resume != "auto":
        saved = saved_config(run_of(Path(resume)) / CONFIG, trusted)
        return Composer(register_saved(saved, overrides), config_dir)
    primary = (config_dir or configs_folder()) / f"{name}.yaml"
    with reading(primary, ConfigError):
        shipped = config_dir is None or not primary.is_file()
    if shipped or (parsed.config_name is None and "defaults" in read_config(primary)):
        return Composer(name, config_dir)
    # Nothing else in the folder counts, because it may be a run's folder from somebody else.
    return Composer(register_saved(saved_config(primary, trusted), overrides))


def _sweep(composer: Composer, overrides: list[str]) -> int:
    """Check every value of a sweep, then run its jobs; return the exit code."""
    from wgan_cli.commands.composition import quoted, without_hydra
    from wgan_cli.commands.folders import check_subdir, new_folder
    from wgan_cli.commands.sweep import run_jobs
    from wgan_cli.commands.sweep_job import Launcher
    from wgan_cli.commands.sweep_values import jobs_of, samples_of
    from wgan_cli.commands.sweep_workers import share_cores

    choices = composer.choices(overrides)
    for sample in samples_of(choices):
        composed = composer.compose(sample)
        validate(without_hydra(composed))
        check_subdir(composed)
    folder = new_folder(composed, "sweep", overrides)
    # Hydra writes this file without looking for links.
    inside(folder, "multirun.yaml")
    mode = ["hydra.mode=MULTIRUN", f"hydra.sweep.dir={quoted(str(folder))}"]
    handed = [*overrides, *mode, *composer.flags, "-m"]
    jobs, launcher = jobs_of(choices), Launcher.of(composed.hydra)
    share_cores(launcher, len(jobs))
    try:
        return run_jobs(folder, jobs, launcher, lambda: _hand_over(handed))
    except OSError as error:
        raise disk_error(error, Path(error.filename or folder / "multirun.yaml")) from None
    finally:
        remove_if_empty(folder)


def _single_run(composer: Composer, overrides: list[str], resume: str | None) -> int:
    """Check the settings of one run, create its folder and run it; return the exit code."""
    from hydra.types import RunMode

    from wgan_cli.commands.composition import quoted, without_hydra
    from wgan_cli.commands.folders import run_folder
    from wgan_cli.commands.resume import refuse_changes, run_of

    resumed = None if resume is None or resume == "auto" else run_of(Path(resume))
    composed = composer.compose(overrides)
    if composed.hydra.mode == RunMode.MULTIRUN:
        flags.refuse_multirun(resume)
        return _sweep(composer, overrides)
    if resumed is not None and composed.hydra.job.chdir:
        composed.resume = str(Path(composed.resume).absolute())
    config = validate(without_hydra(composed))
    refuse_uneven(Process.current(), config.batch_size, going_on=resumed is not None)
    refuse_missing_packages(config)
    filled, _ = fill(config)
    if resumed is not None:
        refuse_changes(read_config(resumed / CONFIG), as_dict(filled), resumed)
    folder = run_folder(composed, overrides, resume)
    try:
        # environment.json records this command line, with which a report can repeat the run.
        directory = f"hydra.run.dir={quoted(str(folder))}"
        sys.argv = [sys.argv[0], *overrides, directory, *composer.flags]
        return _start(composed, folder)
    finally:
        remove_if_empty(folder)


def _start(composed: DictConfig, folder: Path) -> int:
    """Call `task` directly, because `hydra.main` would compose the config twice more.

    Hydra's own log is not configured. Raises `ConfigError` if a callback or log of Hydra's cannot
    be created.
    """
    from hydra import initialize_config_dir
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.utils import run_job
    from hydra.errors import CompactHydraException
    from hydra.types import HydraContext, RunMode
    from omegaconf.errors import OmegaConfBaseException

    composed.hydra.mode = RunMode.RUN
    composed.hydra.run.dir = str(folder)
    name = composed.hydra.job.config_name
    try:
        with initialize_config_dir(str(configs_folder()), "train", version_base="1.3"):
            callbacks = Callbacks(composed)
            context = HydraContext(GlobalHydra.instance().config_loader(), callbacks)
            callbacks.on_run_start(config=composed, config_name=name)
            done = run_job(task, composed, "hydra.run.dir", None, context)
            callbacks.on_run_end(config=composed, config_name=name, job_return=done)
    except (CompactHydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"hydra: {str(error).splitlines()[0]}") from None
    code = done.return_value
    assert isinstance(code, int)
    return code


def _show(arguments: list[str]) -> int:
    """Let Hydra print what the flags ask for. Raises `ConfigError` if Hydra cannot."""
    from wgan_cli.commands.composition import Composer

    try:
        return _hand_over(arguments)
    except SystemExit as end:
        # Hydra has printed why.
        return ConfigError.exit_code if end.code else 0
    except WganError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise ConfigError(Composer().plain_words(error)) from None
    except Exception as error:
        raise ConfigError(Composer().plain_words(error)) from None


def _hand_over(arguments: list[str]) -> int:
    """Let Hydra parse the arguments and call `task`; return the exit code that `task` sets."""
    import hydra

    global _exit_code
    _exit_code = 0
    # Let Hydra raise its errors instead of printing a traceback.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [sys.argv[0], *arguments]
    hydra.main(version_base="1.3", config_path=str(configs_folder()), config_name="train")(task)()
    return _exit_code


def task(config: DictConfig) -> int:
    """Train one run or one job of a sweep; return its exit code. Hydra calls this function."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from wgan_cli.commands.run import execute
    from wgan_cli.commands.sweep_job import Launcher, sweep_of
    from wgan_cli.commands.sweep_workers import in_worker, own_gpu

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    overrides = [str(override) for override in hydra.overrides.task]
    sweep = hydra.mode == RunMode.MULTIRUN
    root = sweep_of(hydra, folder) if sweep else folder

    def job() -> int:
        with own_gpu(config.device) as config.device:
            return execute(config, folder, overrides, sweep=sweep)

    global _exit_code
    if sweep and Launcher.of(hydra) is Launcher.JOBLIB:
        code = in_worker(root, job)
        remove_if_empty(folder)
    else:
        code = execute(config, folder, overrides, sweep=sweep)
    _exit_code = _exit_code or code
    return code
