"""A command under torchrun: rank 0 is the command, the others do as it says."""

from __future__ import annotations

import logging
import signal
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wgan_cli.commands.cli import complain
from wgan_cli.commands.logs import log
from wgan_cli.config import validate
from wgan_cli.distributed.process import Process
from wgan_cli.errors import RankError, WganError
from wgan_cli.stop_signals import StopSignals

if TYPE_CHECKING:
    from wgan_cli.distributed.process_group import ProcessGroup
    from wgan_cli.schema import TrainConfig

# Seconds in which the others have ended too once a run has, if they are still there.
_PATIENCE = 15.0
# And in which they have read how rank 0 ended.
_LINGER = 3.0


def say_world(config: TrainConfig, state: dict[str, Any] | None, world: int) -> None:
    """How many processes train, and that another count than before changes the last bits."""
    if world > 1:
        rows = config.batch_size // world
        log.info("%d processes, each with %d samples of every batch", world, rows)
        if config.graphs:
            log.info("graphs=true: an update that other processes share runs kernel by kernel.")
    before = 1 if state is None else state.get("world", 1)
    if state is not None and before != world:
        log.info(
            "Trained in %d process%s so far, the run goes on in %d: sums are added in another"
            " order, so the last bits are not those of a run that kept their number.",
            before,
            "es" if before > 1 else "",
            world,
        )


def group_of(process: Process) -> ProcessGroup:
    """The processes of this run, of which torchrun tells; this imports torch."""
    from wgan_cli.distributed.process_group import ProcessGroup, join_process_group

    group = join_process_group(process)
    assert isinstance(group, ProcessGroup)
    return group


def lead(
    group: ProcessGroup,
    signals: StopSignals,
    command: Callable[[Callable[[], WganError | None]], int],
) -> int:
    """Rank 0: run the command, unless `signals` say that nobody wants it any more.

    The others end with it. `command` gets what tells why torchrun may ask it to end: another rank's
    failure, if there is. Returns the exit code.
    """
    code = 1
    try:
        asked = signals.requested()
        if asked is None:
            code = command(group.failure_of_other_rank)
        else:
            complain(f"wgan-train: {asked}")
            code = asked.exit_code
    finally:
        _end_by_itself()
        group.report_end(code)
        group.close(failed=code != 0)
        # Where torchrun does not keep the store, it is gone with this process.
        group.wait_for_others(_LINGER)
    return code


def follow(group: ProcessGroup) -> int:
    """Train as rank 0 says; returns the exit code. All that a user reads comes from rank 0."""
    log.addHandler(logging.NullHandler())
    log.propagate = False
    signals, settings = StopSignals(), None
    try:
        settings = group.settings()
        if settings is not None:
            _train(group, settings, signals)
    except (RankError, KeyboardInterrupt):
        # Rank 0 says why; Ctrl-C goes to all.
        pass
    except Exception as error:
        _end_by_itself()
        code = _tell(group, error, 1 if settings is None else settings["batch_size"])
        group.close(failed=True)
        return code
    _end_by_itself()
    code = group.leader_exit_code(_PATIENCE)
    group.close(failed=code != 0)
    group.report_end(code)
    return code


def _end_by_itself() -> None:
    """Heed no signal: torchrun asks all processes to end as soon as one has."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _train(group: ProcessGroup, settings: dict[str, Any], signals: StopSignals) -> None:
    from omegaconf import OmegaConf

    from wgan_cli.build import build_dataset, build_trainer
    from wgan_cli.machine import choose_machine

    config = validate(OmegaConf.create(settings))
    device = choose_machine(config, group.process)
    group.connect({}, device)
    dataset = group.one_per_machine_first(lambda: build_dataset(config))
    trainer = build_trainer(config, dataset, device, group, signals=group.share_signals(signals))
    group.arrive("start")
    with signals:
        trainer.fit()


def _tell(group: ProcessGroup, error: Exception, batch_size: int) -> int:
    """Leave this process's failure where rank 0 finds it; returns the exit code."""
    from wgan_cli.training.failures import in_plain_words

    failure = in_plain_words(error, batch_size)
    if isinstance(failure, WganError):
        group.report_end(failure.exit_code, str(failure), failure.state)
        return failure.exit_code
    trace = "".join(traceback.format_exception(error)).rstrip()
    complain(f"wgan-train, rank {group.process.rank}: unexpected error:\n{trace}")
    group.report_end(1, f"{type(failure).__name__}: {failure}")
    return 1
