"""`wgan-search`: search for good settings with Optuna. Each trial is a wgan-train process."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wgan_cli.commands.cli import (
    entry_point,
    exit_code_of_training,
    path_argument,
    print_error,
    shown,
)
from wgan_cli.commands.help import options_in
from wgan_cli.config import as_dict, configs_folder, fill, refuse_missing_packages, validate
from wgan_cli.errors import ConfigError, DataError, DiskError, InterruptedRunError, PreemptedError
from wgan_cli.files import reading
from wgan_cli.schema import METRICS
from wgan_cli.stop_signals import StopSignals
from wgan_cli.validation import is_writable, nearest

if TYPE_CHECKING:
    from wgan_cli.schema import FilledConfig
    from wgan_cli.search.space import Search, Value

# Settings that wgan-search sets for every trial.
_RESERVED = ("resume", "hydra.run.dir", "hydra.sweep.dir")


def run(command_line: Sequence[str]) -> int:
    """Run `wgan-search` with these arguments; return the exit code."""
    arguments = _parser().parse_intermixed_args(command_line)
    return exit_code_of_training(
        "wgan-search",
        lambda: _search(arguments),
        lambda: PreemptedError("asked to stop before a trial began."),
    )


main = entry_point(run)


def _parser() -> argparse.ArgumentParser:
    spaces = options_in(configs_folder() / "search")
    parser = argparse.ArgumentParser(
        prog="wgan-search",
        description="Search for settings with Optuna: a number of runs, each in its own process,"
        " the unpromising ones ended early. Several processes may share one folder.",
        epilog="spaces:\n" + "\n".join(f"  {name:<18} {what}" for name, what in spaces.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "space",
        metavar="SPACE",
        help="a space that ships, a YAML file of your own, or a search's folder, to go on with it",
    )
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="wgan-train's words, the same for every trial"
    )
    parser.add_argument("--trials", type=int, metavar="N", help="trials in all, earlier ones too")
    parser.add_argument(
        "--dir", type=path_argument, metavar="FOLDER", help="default: outputs/search/<space>_<time>"
    )
    parser.add_argument(
        "--storage", metavar="URL", help="a database for the study, as sqlite:///studies.db"
    )
    return parser


def _search(arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError('wgan-search needs Optuna: pip install "wgan-train[search]".')

    from wgan_cli.commands.folders import reserved
    from wgan_cli.search.folder import SearchFolder, refuse_unreachable
    from wgan_cli.search.loop import SearchLoop
    from wgan_cli.search.space import as_overrides
    from wgan_cli.search.study import final_summary, trials_text

    name, search = _asked_for(arguments)
    first = _check(search)
    storage: str | None = arguments.storage
    if storage is not None:
        # A search may be continued from another folder, so make the path of a SQLite file absolute.
        scheme, sqlite, file = storage.partition("sqlite:///")
        if sqlite and not scheme:
            storage = sqlite + str(Path(file).absolute())
        refuse_unreachable(storage)
    default = Path("outputs", "search", f"{name}_{datetime.now():%Y-%m-%d_%H-%M-%S}")
    if not is_writable(str(arguments.dir or default)):
        raise ConfigError(f"{str(arguments.dir or default)!a}: no search can have this name.")
    folder = SearchFolder(shown(arguments.dir or reserved(default)))
    search = folder.begin(search, name, storage)
    print(f"{trials_text(search.trials)} in {folder.path}", flush=True)
    signals = StopSignals()
    with signals:
        try:
            show = partial(print, flush=True)
            loop = SearchLoop(folder, _command, signals.requested, show, first)
            facts = loop.run()
        except (InterruptedRunError, PreemptedError, DiskError, DataError) as error:
            again = shlex.join(["wgan-search", str(folder.path)])
            raise type(error)(f"{error} Go on with: {again}") from None
    params = facts.best.params if facts.best is not None else {}
    command = shlex.join(["wgan-train", *search.words, *as_overrides(params)])
    runs = {trial.number: folder.trial(trial.number) for trial in facts.trials}
    print(final_summary(facts, runs, command))
    return 0 if facts.best is not None else 1


def _asked_for(arguments: argparse.Namespace) -> tuple[str, Search]:
    """Return the name and the definition of the search that the arguments describe."""
    from wgan_cli.search.folder import SearchFolder
    from wgan_cli.search.space import read_search, with_overrides

    asked = Path(arguments.space)
    with reading(asked, ConfigError):
        is_folder = asked.is_dir()
    if is_folder:
        if arguments.dir not in (None, asked):
            raise ConfigError(f"{asked} is a search's own folder; leave --dir out.")
        arguments.dir = asked
        name = asked.name
        search, _, _ = SearchFolder(asked).read()
    else:
        path = _space_file(arguments.space)
        name, search = path.stem, read_search(path)
    if arguments.words:
        search = with_overrides(search, arguments.words)
    if arguments.trials is not None:
        if arguments.trials < 1:
            raise ConfigError(f"--trials {arguments.trials}: at least 1.")
        search = dataclasses.replace(search, trials=arguments.trials)
    elif arguments.dir is not None and SearchFolder(arguments.dir).holds_search():
        begun, _, _ = SearchFolder(arguments.dir).read()
        search = dataclasses.replace(search, trials=begun.trials)
    return name, search


def _space_file(space: str) -> Path:
    own, shipped = Path(space), configs_folder() / "search"
    with reading(own, ConfigError):
        found = own.is_file()
    if own.suffix in (".yaml", ".yml") or found:
        if not found:
            raise ConfigError(f"{own}: there is no such file.")
        return own
    known = list(options_in(shipped))
    if space not in known:
        raise ConfigError(
            f"{space}: there is no such space, only {', '.join(known)}; or name a YAML file or a"
            f" search's folder.{nearest(space, known)}"
        )
    return shipped / f"{space}.yaml"


def _check(search: Search) -> dict[str, Value]:
    """Check trials at the ends of all ranges and with all choices; return the values for trial 0.

    These values are the config's own values of the searched settings, where the search space
    includes them. The dict is empty if the config is not valid without values from the space.
    Raises `ConfigError` if a checked trial is not valid.
    """
    from wgan_cli.commands.composition import Composer, without_hydra
    from wgan_cli.search.space import default_values
    from wgan_cli.validation import override_key

    for word in (*search.words, *search.settings):
        if override_key(word) in _RESERVED:
            raise ConfigError(f"{word}: wgan-search chooses this itself for every trial.")
    fixed = {override_key(word): word for word in search.words}
    for key in search.settings:
        if override_key(key) in fixed:
            raise ConfigError(
                f"{key} is searched by the space and fixed by {fixed[override_key(key)]} among its"
                " words; leave one of them out."
            )
    composer = Composer()
    if any(len(values) > 1 for values in composer.choices(search.words)):
        raise ConfigError(
            "A word holds one value for all trials; values to try go into the space, as"
            " {choices: [a, b]}."
        )
    for words in search.corners():
        config = validate(without_hydra(composer.compose(words)))
        refuse_missing_packages(config)
        filled, _ = fill(config)
    _check_metric(search, filled)
    try:
        composed = without_hydra(composer.compose(search.words))
        return default_values(search, as_dict(fill(validate(composed))[0]))
    except ConfigError:
        # The overrides alone are not valid: they need a value from the space.
        return {}


def _check_metric(search: Search, config: FilledConfig) -> None:
    if search.metric not in METRICS:
        return
    measured = config.metrics
    if measured is not None and search.metric not in measured:
        raise ConfigError(
            f"metric: {search.metric} is not among metrics={','.join(measured)}; add it there."
        )
    pruned = search.pruner.name != "none"
    if pruned and config.eval_every >= config.steps:
        print_error(
            f"wgan-search: no trial can be pruned, as eval_every={config.eval_every} has the first"
            f" evaluation at the end of {config.steps} steps."
        )


def _command(words: Sequence[str], folder: Path) -> list[str]:
    """Return the command of a trial. The trial resumes if `folder` already holds a checkpoint."""
    from wgan_cli.commands.composition import quoted

    run_dir = f"hydra.run.dir={quoted(str(folder.absolute()))}"
    return [sys.executable, "-m", "wgan_cli", *words, run_dir, "resume=auto"]
