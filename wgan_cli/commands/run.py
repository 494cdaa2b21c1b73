"""Train one run from its composed config; report its results or its error."""

from __future__ import annotations

import dataclasses
import logging
import traceback
from collections.abc import Sequence
from logging.handlers import MemoryHandler
from pathlib import Path

from omegaconf import DictConfig

from wgan_cli.commands.cli import print_text, shown
from wgan_cli.commands.logs import console_log, file_log, jobs, log
from wgan_cli.commands.resume import (
    refuse_changes,
    refuse_other_data,
    refuse_other_samples,
    state_to_resume,
)
from wgan_cli.commands.summary import resume_hint, summary
from wgan_cli.commands.sweep_job import claim_job_folder, record_failure
from wgan_cli.commands.torchrun import log_process_count
from wgan_cli.config import as_dict, fill, validate
from wgan_cli.distributed.process import Process
from wgan_cli.errors import InterruptedRunError, WganError
from wgan_cli.files import LogFile
from wgan_cli.run_folder import LOG, OVERRIDES, RunFolder, remove_if_empty
from wgan_cli.run_status import read_status
from wgan_cli.schema import RunConfig
from wgan_cli.stop_signals import StopSignals
from wgan_cli.validation import job_overrides


def execute(composed: DictConfig, path: Path, overrides: Sequence[str], *, sweep: bool) -> int:
    """Train one run in the folder `path`; return its exit code.

    Errors are printed on stderr. A job of a sweep also records its error in the folder; a single
    run does so only if training had begun. If a stop signal ends a job, this function raises
    KeyboardInterrupt or SystemExit, which also ends the sweep.
    """
    # Hydra may have made the run's folder the current one (hydra.job.chdir), but the commands in
    # messages are typed elsewhere.
    if Path.cwd() != path.absolute():
        path = shown(path)
    folder, signals, reserved = RunFolder(path), StopSignals(), False
    # During a sweep, the terminal shows only the states of the jobs.
    with console_log(logging.CRITICAL if sweep else logging.INFO) as early:
        try:
            if sweep:
                folder, reserved = RunFolder(claim_job_folder(path, overrides)), True
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
                # Without a reserved folder, `path` may hold another job.
                if reserved:
                    record_failure(folder, overrides, failure, early)
                elif sweep:
                    jobs.error("wgan-train: %s", failure)
            code = failure.exit_code if isinstance(failure, WganError) else 1
        finally:
            with signals:
                folder.abandon()
                folder.release()
                # If the run has not begun, for example because of Ctrl-C, free the folder again.
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
    from wgan_cli.gpu_facts import gpu_facts
    from wgan_cli.machine import choose_machine, find_device, set_up_torch, use_threads
    from wgan_cli.training.callbacks.record import LogWatch

    process = Process.current()
    device = find_device(config.device, process)
    new = not folder.holds_run()
    if not new:
        # The folder holds a run: `claim` raises an error unless this process resumes the run.
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
    use_threads(complete_config.threads)
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
        facts = build.data_facts(complete_config, dataset)
        refuse_other_data(state.get("data"), facts)
        refuse_other_samples(state, list(dataset.sample_shape), facts["classes"])
        trainer.load_state_dict(state)
        # Only the number of processes is needed later; the weights would stay in memory.
        state = {"world": state.get("world", 1)}
    if new:
        ranks.arrive("start")
        folder.claim(resuming=resume is not None)
    with file_log(log_file, early):
        gpus = gpu_facts(device, process.local_world)
        names = [gpu["name"] for gpu in gpus.get("gpus", [])]
        _log_start(complete_config, names, folder, [] if trainer.step else notes)
        log_process_count(complete_config, state, ranks.world)
        folder.write_config(as_dict(complete_config))
        before = folder.read_overrides() if state is not None and not sweep else []
        folder.write_overrides([*before, *job_overrides(overrides)])
        folder.write_environment(device=str(device), world=ranks.world, **gpus)
        with signals:
            trainer.fit()
    if not sweep:
        print_text(summary(folder))
    return 0


def _log_start(
    config: RunConfig, gpus: Sequence[str], folder: RunFolder, notes: Sequence[str]
) -> None:
    nodes = (config.dataset, config.model, config.loss, config.constraint, config.optimizer)
    names = ", ".join(node.get("name") or node["_target_"] for node in nodes)
    threads = [f"{config.threads} threads"] if config.device == "cpu" else []
    how = ", ".join([*dict.fromkeys(gpus), config.precision, *threads])
    log.info("%s on %s (%s), seed %d", names, config.device, how, config.seed)
    if notes:
        log.info("%s", ", ".join(notes))
    log.info("run folder: %s", folder.path)
