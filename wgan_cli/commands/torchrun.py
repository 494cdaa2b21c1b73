"""Run a command under torchrun. Rank 0 runs the command and sends its settings to other ranks."""

from __future__ import annotations

import logging
import signal
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wgan_cli.commands.cli import print_error
from wgan_cli.commands.logs import log
from wgan_cli.config import fill, validate
from wgan_cli.errors import RankError, WganError
from wgan_cli.stop_signals import StopSignals

if TYPE_CHECKING:
    from wgan_cli.distributed.process_group import ProcessGroup
    from wgan_cli.schema import TrainConfig

# Seconds that other ranks wait for the exit code of rank 0 after training.
_PATIENCE = 15.0
# Seconds that rank 0 waits for the other ranks to read its exit code.
_LINGER = 3.0


def log_process_count(config: TrainConfig, state: dict[str, Any] | None, world: int) -> None:
    """Log the number of processes, and a note if it has changed since the checkpoint `state`.

    The number of processes determines the order of sums, which affects the last bits of results.
    """
    if world > 1:
        rows = config.batch_size // world
        log.info("%d processes, each with %d samples of every batch", world, rows)
        if config.graphs is not False and str(config.device).startswith("cuda"):
            log.info("No CUDA graphs: steps that several processes share run kernel by kernel.")
    if state is not None and (before := state.get("world", 1)) != world:
        log.info(
            "Trained in %d process%s so far, the run goes on in %d: sums are added in another"
            " order, so the last bits are not those of a run that kept their number.",
            before,
            "es" if before > 1 else "",
            world,
        )


def run_leader(
    group: ProcessGroup,
    signals: StopSignals,
    command: Callable[[Callable[[], WganError | None]], int],
) -> int:
    """Run `command` as rank 0, unless a stop signal has already come; return the exit code.

    The other ranks end when rank 0 ends. If another rank fails, torchrun sends a stop signal to all
    processes. So that rank 0 can report the real cause, `command` gets a function that returns the
    error of the failed rank, or None.
    """
    code = 1
    try:
        asked = signals.requested()
        if asked is None:
            code = command(group.failure_of_other_rank)
        else:
            print_error(f"wgan-train: {asked}")
            code = asked.exit_code
    finally:
        _ignore_signals()
        group.report_end(code)
        group.close(failed=code != 0)
        # Wait for the other ranks: unless torchrun hosts the store, the store ends with this
        # process.
        group.wait_for_others(_LINGER)
    return code


def run_follower(group: ProcessGroup) -> int:
    """Train as a rank other than 0, with rank 0's settings; return the exit code. Log nothing."""
    log.addHandler(logging.NullHandler())
    log.propagate = False
    signals, settings = StopSignals(), None
    try:
        settings = group.settings()
        if settings is not None:
            _train(group, settings, signals)
    except (RankError, KeyboardInterrupt):
        # Rank 0 prints the message. This includes Ctrl-C, which the terminal sends to all ranks.
        pass
    except Exception as error:
        from wgan_cli.training.failures import in_plain_words

        _ignore_signals()
        failure = in_plain_words(error, 1 if settings is None else settings["batch_size"])
        if isinstance(failure, WganError):
            code, reason, state = failure.exit_code, str(failure), failure.state
        else:
            code, reason, state = 1, f"{type(failure).__name__}: {failure}", "failed"
            trace = "".join(traceback.format_exception(error)).rstrip()
            print_error(f"wgan-train, rank {group.process.rank}: unexpected error:\n{trace}")
        group.report_end(code, reason, state)
        group.close(failed=True)
        return code
    _ignore_signals()
    code = group.leader_exit_code(_PATIENCE)
    group.close(failed=code != 0)
    group.report_end(code)
    return code


def _ignore_signals() -> None:
    """Ignore stop signals, because torchrun sends them to all processes when one has ended."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _train(group: ProcessGroup, settings: dict[str, Any], signals: StopSignals) -> None:
    from wgan_cli import build
    from wgan_cli.machine import choose_machine, find_device, set_up_torch, use_threads

    config, _ = fill(validate(settings))
    device = find_device(config.device, group.process)
    machine = choose_machine(config, device)
    set_up_torch(machine, device, group.process, deterministic=config.deterministic)
    group.connect({}, device)
    dataset = group.one_per_machine_first(lambda: build.build_dataset(config))
    complete_config = build.complete(config, machine, dataset)
    use_threads(complete_config.threads)
    trainer = build.build_trainer(
        complete_config,
        dataset,
        device,
        group,
        signals=group.share_signals(signals),
    )
    group.arrive("start")
    with signals:
        trainer.fit()
