"""One run from its composed config to its last line, whatever happens."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from wgan_cli.commands.logs import console_log, file_log, log
from wgan_cli.commands.paths import shown
from wgan_cli.commands.resume import refuse_changes, refuse_other_data, run_of
from wgan_cli.commands.summary import how_to_go_on, summary
from wgan_cli.commands.sweep_job import give_back_folder, record_failure, take_folder, typed
from wgan_cli.commands.torchrun import say_world
from wgan_cli.config import as_dict, fill, validate
from wgan_cli.distributed.process import Process
from wgan_cli.errors import (
    CheckpointError,
    InterruptedRunError,
    WganError,
)
from wgan_cli.rules import check_rules
from wgan_cli.run_folder import LOG, RunFolder, remove_if_empty
from wgan_cli.schema import TrainConfig
from wgan_cli.stop_signals import StopSignals


def execute(composed: DictConfig, path: Path, overrides: Sequence[str], *, sweep: bool) -> int:
    """Train one run in the folder `path`; returns its exit code.

    An error is said in one line, and its folder tells its story: of a single run only once training
    began, of a sweep's job always. A signal ends a sweep, by KeyboardInterrupt or SystemExit.
    """
    folder, signals, taken = RunFolder(path), StopSignals(), False
    # Of a sweep's jobs the terminal shows their states alone.
    with console_log(logging.CRITICAL if sweep else logging.INFO) as early:
        try:
            if sweep:
                folder, taken = RunFolder(shown(take_folder(path, overrides))), True
                log.info("job %s: %s", folder.path.name, " ".join(overrides) or "(defaults)")
            else:
                folder = RunFolder(shown(path))
            code = _train(composed, folder, overrides, early, signals, sweep=sweep)
            if sweep:
                _end_sweep_if_asked(signals)
            return code
        except Exception as error:
            # A request to end would now hide why the run does.
            with signals:
                failure = _in_plain_words(error, composed)
                if isinstance(failure, WganError):
                    again = how_to_go_on(failure, folder.path, composed)
                    log.error("wgan-train: %s%s", failure, again)
                else:
                    log.error("wgan-train: unexpected error:\n%s", traceback.format_exc())
                if sweep:
                    record_failure(folder, overrides, failure, early)
            if sweep:
                _end_sweep_if_asked(signals)
            return failure.exit_code if isinstance(failure, WganError) else 1
        finally:
            with signals:
                folder.abandon()
                folder.release()
                if taken:
                    give_back_folder(folder)
                remove_if_empty(folder.path)


def _train(
    composed: DictConfig,
    folder: RunFolder,
    overrides: Sequence[str],
    early: MemoryHandler,
    signals: StopSignals,
    *,
    sweep: bool,
) -> int:
    config = validate(composed)
    check_rules(config)
    resume, config.resume = config.resume, None
    config, notes = fill(config)

    # From here on torch is needed, which takes seconds to import, and all that builds on it one.
    from wgan_cli.machine import choose_machine, keep_choices, unset_choices

    place = Process.current()
    unset, device = unset_choices(config), choose_machine(config, place)

    from wgan_cli.build import (
        build_callbacks,
        build_constraint,
        build_dataset,
        build_evaluation,
        build_rollback,
        build_trainer,
        data_facts,
    )
    from wgan_cli.distributed.process_group import join_process_group
    from wgan_cli.training.callbacks.log import LogFile, LogWatch

    going_on = resume is not None or sweep
    first = not folder.holds_run()
    if not first:
        # Refused for a fresh start: another took the folder since this one looked.
        folder.claim(resuming=going_on)
    state = _state_to_go_on_from(config, folder, resume or ("auto" if sweep else None))
    if state is not None:
        keep_choices(config, state["config"], unset)
        refuse_changes(state["config"], as_dict(config), folder.path)
    done, steps = state["step"] if state is not None else 0, config.steps or 0
    if done > steps or (done == steps and _finished(folder)):
        log.info("%s has %d steps already: nothing to do.", folder.path, done)
        return 0
    ranks = join_process_group(place)
    ranks.connect(as_dict(config), device)
    dataset = ranks.one_per_machine_first(lambda: build_dataset(config))
    evaluation = build_evaluation(
        config, dataset, build_constraint(config), device, while_training=True
    )
    log_file = LogFile(folder.path / LOG)
    trainer = build_trainer(
        config,
        dataset,
        device,
        ranks,
        evaluation=evaluation,
        callbacks=[
            *build_callbacks(config, folder, dataset, first=first or state is None),
            LogWatch(log_file),
        ],
        rollback=build_rollback(config, folder),
        signals=ranks.share_signals(signals),
    )
    if state is not None:
        refuse_other_data(state.get("data"), data_facts(config, dataset))
        trainer.load_state_dict(state)
    if first:
        ranks.arrive("start")
        folder.claim(resuming=going_on)
    with file_log(log_file, early):
        _announce(config, folder, notes, trainer.step)
        say_world(config, state, ranks.world)
        folder.write_config(as_dict(config))
        before = folder.read_overrides() if state is not None and not sweep else []
        folder.write_overrides([*before, *typed(overrides)])
        folder.write_environment(device=str(device), world=ranks.world)
        with signals:
            trainer.fit()
    if not sweep:
        print(summary(folder))
    return 0


def _end_sweep_if_asked(signals: StopSignals) -> None:
    """Also where the job was over, well or not, before it could heed the signal."""
    signals.raise_again()
    asked = signals.requested()
    if isinstance(asked, InterruptedRunError):
        raise KeyboardInterrupt
    if asked is not None:
        raise SystemExit(asked.exit_code)


def _state_to_go_on_from(
    config: TrainConfig, folder: RunFolder, resume: str | None
) -> dict[str, Any] | None:
    """The checkpoint's state that `resume` means, or None for a fresh start."""
    if resume is None:
        return None
    from wgan_cli.training.checkpoint import check_whole, load_checkpoint, load_newest

    if resume != "auto" and Path(resume).is_file():
        run_of(Path(resume))
        chosen = load_checkpoint(Path(resume))
        check_whole(chosen, Path(resume))
        return chosen
    state, path, warnings = load_newest(folder.checkpoints)
    for warning in warnings:
        log.warning("%s", warning)
    if state is None and resume != "auto":
        raise CheckpointError(f"resume={resume}: there is no checkpoint that can be read.")
    if state is None and folder.read_status().get("step"):
        log.warning("%s holds no checkpoint: it begins anew.", folder.path)
    if state is not None and path is not None:
        check_whole(state, path)
        log.info("Going on from %s.", path)
    return state


def _in_plain_words(error: Exception, composed: DictConfig) -> Exception:
    """What a full disk or memory means, before training too; any other error as it is."""
    if isinstance(error, WganError):
        return error
    from wgan_cli.training.failures import in_plain_words

    return in_plain_words(error, int(composed.batch_size))


def _finished(folder: RunFolder) -> bool:
    return folder.read_status().get("state") == "finished"


def _announce(config: TrainConfig, folder: RunFolder, notes: Sequence[str], done: int) -> None:
    names = (config.dataset, config.model, config.loss, config.constraint, config.optimizer)
    chosen = ", ".join(node.get("name") or node["_target_"] for node in names)
    threads = f", {config.threads} threads" if config.device == "cpu" else ""
    log.info(
        "%s on %s (%s%s), seed %d", chosen, config.device, config.precision, threads, config.seed
    )
    if notes and not done:
        log.info("%s", ", ".join(notes))
    log.info("run folder: %s", folder.path)
