"""Train one run from its composed config; report errors or the results; return the exit code."""

from __future__ import annotations

import dataclasses
import logging
import traceback
from collections.abc import Sequence
from logging.handlers import MemoryHandler
from pathlib import Path

from omegaconf import DictConfig

from wgan_cli.commands.cli import shown
from wgan_cli.commands.composition import typeable
from wgan_cli.commands.logs import console_log, file_log, log
from wgan_cli.commands.resume import refuse_changes, refuse_other_data, state_to_resume
from wgan_cli.commands.sweep_job import (
    claim_job_folder,
    job_overrides,
    record_failure,
)
from wgan_cli.commands.torchrun import log_process_count
from wgan_cli.config import as_dict, fill, validate
from wgan_cli.distributed.process import Process
from wgan_cli.errors import (
    DiskError,
    DivergedError,
    InterruptedRunError,
    OutOfMemoryError,
    PreemptedError,
    RankError,
    WganError,
)
from wgan_cli.files import LogFile
from wgan_cli.run_folder import LOG, OVERRIDES, RunFolder, remove_if_empty
from wgan_cli.run_status import read_status
from wgan_cli.schema import RunConfig
from wgan_cli.stop_signals import StopSignals


def execute(composed: DictConfig, path: Path, overrides: Sequence[str], *, sweep: bool) -> int:
    """Train one run in the folder `path`; return its exit code.

    An error is printed on stderr. It is also recorded in the folder: for a single run only if
    training had begun, for a job of a sweep always. If a stop signal ends a job, raise
    KeyboardInterrupt or SystemExit to end the sweep too.
    """
    folder, signals, reserved = RunFolder(shown(path)), StopSignals(), False
    # During a sweep, the terminal shows only the states of the jobs.
    with console_log(logging.CRITICAL if sweep else logging.INFO) as early:
        try:
            if sweep:
                folder, reserved = RunFolder(shown(claim_job_folder(path, overrides))), True
                log.info("job %s: %s", folder.path.name, " ".join(overrides) or "(defaults)")
            code = _train(composed, folder, overrides, early, signals, sweep=sweep)
        except Exception as error:
            # A stop signal must not interrupt the report of this error.
            with signals:
                failure: Exception = error
                if not isinstance(error, WganError):
                    from wgan_cli.training.failures import in_plain_words

                    failure = in_plain_words(error, int(composed.batch_size))
                if isinstance(failure, WganError):
                    hint = resume_hint(failure, folder.path, composed)
                    log.error("wgan-train: %s%s", failure, hint)
                else:
                    log.error("wgan-train: unexpected error:\n%s", traceback.format_exc())
                if sweep:
                    record_failure(folder, overrides, failure, early)
            code = failure.exit_code if isinstance(failure, WganError) else 1
        finally:
            with signals:
                folder.abandon()
                folder.release()
                # Ctrl-C, for example, may have come before the run began.
                if reserved and not folder.holds_run():
                    (folder.path / OVERRIDES).unlink(missing_ok=True)
                remove_if_empty(folder.path)
        if sweep:
            signals.raise_again()
            asked = signals.requested()
            if isinstance(asked, InterruptedRunError):
                raise KeyboardInterrupt
            if asked is not None:
                raise SystemExit(asked.exit_code)
        return code


def _train(
    composed: DictConfig,
    folder: RunFolder,
    overrides: Sequence[str],
    early: MemoryHandler,
    signals: StopSignals,
    *,
    sweep: bool,
) -> int:
    typed = validate(composed)
    resume = typed.resume or ("auto" if sweep else None)
    config, notes = fill(dataclasses.replace(typed, resume=None))

    # The imports below need torch, which takes seconds to import.
    from wgan_cli import build
    from wgan_cli.distributed.process_group import join_process_group
    from wgan_cli.machine import choose_machine, find_device, set_up_torch
    from wgan_cli.training.callbacks.record import LogWatch

    process = Process.current()
    device = find_device(config.device, process)
    new = not folder.holds_run()
    if not new:
        # If this is no resume, this raises, because another process has started a run here.
        folder.claim(resuming=resume is not None)
    state = state_to_resume(folder, resume)
    machine = choose_machine(config, device, None if state is None else state["config"])
    settings = as_dict(config) | dataclasses.asdict(machine)
    if state is not None:
        refuse_changes(state["config"], settings, folder.path)
        status, done = read_status(folder.path), state["step"]
        if done > config.steps or (done == config.steps and status.finished):
            log.info("%s has %d steps already: nothing to do.", folder.path, done)
            return 0
    set_up_torch(machine, device, process, deterministic=config.deterministic)
    ranks = join_process_group(process)
    ranks.connect(settings, device)
    dataset = ranks.one_per_machine_first(lambda: build.build_dataset(config))
    complete_config = build.complete(config, machine, dataset)
    log_file = LogFile(folder.path / LOG)
    first = new or state is None
    loggers = build.build_loggers(complete_config)
    callbacks = build.build_callbacks(complete_config, folder, dataset, loggers, first=first)
    trainer = build.build_trainer(
        complete_config,
        dataset,
        device,
        ranks,
        callbacks=[*callbacks, LogWatch(log_file)],
        rollback=build.build_rollback(complete_config, folder),
        signals=ranks.share_signals(signals),
    )
    if state is not None:
        refuse_other_data(state.get("data"), build.data_facts(complete_config, dataset))
        trainer.load_state_dict(state)
    if new:
        ranks.arrive("start")
        folder.claim(resuming=resume is not None)
    with file_log(log_file, early):
        _log_start(complete_config, folder, [] if trainer.step else notes)
        log_process_count(complete_config, state, ranks.world)
        folder.write_config(as_dict(complete_config))
        before = folder.read_overrides() if state is not None and not sweep else []
        folder.write_overrides([*before, *job_overrides(overrides)])
        folder.write_environment(device=str(device), world=ranks.world)
        with signals:
            trainer.fit()
    if not sweep:
        print(summary(folder))
    return 0


def _log_start(config: RunConfig, folder: RunFolder, notes: Sequence[str]) -> None:
    nodes = (config.dataset, config.model, config.loss, config.constraint, config.optimizer)
    names = ", ".join(node.get("name") or node["_target_"] for node in nodes)
    threads = f", {config.threads} threads" if config.device == "cpu" else ""
    log.info(
        "%s on %s (%s%s), seed %d", names, config.device, config.precision, threads, config.seed
    )
    if notes:
        log.info("%s", ", ".join(notes))
    log.info("run folder: %s", folder.path)


def resume_hint(error: WganError, path: Path, composed: DictConfig) -> str:
    """Return a sentence with the command that resumes the run in `path`, or "" if none does."""
    command = f"{Process.current().command} {typeable('resume', path)}"
    if isinstance(error, InterruptedRunError | PreemptedError):
        return f" Saved; go on with: {command}"
    resumable = any((path / "checkpoints").glob("step_*.pt"))
    if isinstance(error, DiskError) and resumable:
        return f" Then go on with: {command}"
    if isinstance(error, DivergedError) and resumable and composed.on_divergence == "stop":
        return f" Back to the last checkpoint at a lower rate: {command} on_divergence=rollback"
    if isinstance(error, RankError) and resumable:
        return f" The run goes on with: {command}"
    if isinstance(error, OutOfMemoryError) and resumable:
        return f" Where more memory is free, the run goes on with: {command}"
    return ""


def summary(folder: RunFolder) -> str:
    """Return the summary of a finished run, as text for the terminal."""
    status = read_status(folder.path)
    points = [p for p in folder.read_metrics() if "critic/wasserstein" in p]
    # Do not use `status.final`: it may hold metrics that only an earlier start computed.
    first, last = points[0], points[-1]
    peak = max(points, key=lambda p: p["critic/wasserstein"])
    pictures = sorted(folder.samples.glob("step_*.png"))
    lines = [
        f"Finished {status.steps} steps in {status.seconds or 0:.0f} s.",
        f"  Wasserstein estimate  {first['critic/wasserstein']:.4g} at step {first['step']},"
        f" {last['critic/wasserstein']:.4g} at step {last['step']}"
        f" (peak {peak['critic/wasserstein']:.4g} at {peak['step']})",
    ]
    if "wasserstein/exact" in last:
        lines.append(
            f"  exact W1 to held-out  {last['wasserstein/exact']:.4g}"
            f" (real against real {last['wasserstein/exact_real_real']:.4g},"
            f" n = {last['wasserstein/exact_n']:.0f})"
        )
    if "wasserstein/normalized" in last:
        lines.append(
            f"  the critic's own W1   {last['wasserstein/normalized']:.4g}"
            " (its estimate on the same samples over K)"
        )
    if pictures:
        lines.append(f"  last samples          {pictures[-1]}")
    if folder.tensorboard.is_dir():
        # If the run is inside the current folder, give the topmost folder, to show other runs too.
        relative = folder.path.parts and not folder.path.is_absolute()
        logdir = folder.path.parts[0] if relative else folder.path
        lines.append(f"  curves                tensorboard --logdir {logdir}")
    lines.append(f"  more samples          wgan-sample {folder.path}")
    lines.append(f"  more numbers          wgan-eval {folder.path}")
    return "\n".join(lines)
