"""`wgan-search`: search for good settings with Optuna. Each trial is a wgan-train process."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
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
    print_text,
    shown,
)
from wgan_cli.commands.flags import with_names_quoted
from wgan_cli.commands.help import options_in
from wgan_cli.config import as_dict, configs_folder, fill, refuse_missing_packages, validate
from wgan_cli.errors import ConfigError, DataError, DiskError, InterruptedRunError, PreemptedError
from wgan_cli.files import reading
from wgan_cli.process_control import shell_words
from wgan_cli.schema import METRICS
from wgan_cli.stop_signals import StopSignals
from wgan_cli.validation import is_writable, nearest

if TYPE_CHECKING:
    from wgan_cli.schema import FilledConfig
    from wgan_cli.search.space import Search, Value

# Settings that wgan-search sets for every trial.
_RESERVED = ("resume", "hydra.run.dir", "hydra.sweep.dir")
# As the script wgan-train, and unlike `python -m`, this imports nothing from the current folder.
_TRIAL = """
import sys
if sys.path[:1] == [""]:
    del sys.path[0]
sys.argv[0] = "wgan-train"
from wgan_cli.commands.train import main
main()
"""


def run(command_line: Sequence[str]) -> int:
    """Run `wgan-search` with these arguments; return the exit code."""
    arguments = _parser().parse_intermixed_args(command_line)
    arguments.words = [with_names_quoted(word) for word in arguments.words]
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
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PREFIX",
        help="allow the space, or the search to go on with, to name classes under PREFIX",
    )
    return parser


def _search(arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError('wgan-search needs Optuna: pip install "wgan-train[search]".')

    from wgan_cli.commands.folders import reserved
    from wgan_cli.commands.search_words import to_type_again, typed_targets
    from wgan_cli.search.database import absolute_url, refuse_unreachable
    from wgan_cli.search.folder import SearchFolder
    from wgan_cli.search.loop import SearchLoop
    from wgan_cli.search.space import as_overrides
    from wgan_cli.search.study import final_summary, trials_text

    name, search = _asked_for(arguments)
    typed: list[str] = arguments.words
    trusted = [*arguments.trust, *typed_targets(typed)]
    first = _check(search, typed, trusted)
    storage: str | None = arguments.storage
    if storage is not None:
        storage = absolute_url(storage)
        refuse_unreachable(storage)
    default = Path("outputs", "search", f"{name}_{datetime.now():%Y-%m-%d_%H-%M-%S}")
    if not is_writable(str(arguments.dir or default)):
        raise ConfigError(f"{str(arguments.dir or default)!a}: no search can have this name.")
    folder = SearchFolder(shown(arguments.dir or reserved(default)), storage)
    search = folder.begin(search, name)
    print_text(f"{trials_text(search.trials)} in {folder.path}")
    signals = StopSignals()
    with signals:
        try:
            trial_command = partial(_command, trusted=trusted)
            loop = SearchLoop(folder, trial_command, signals.requested, print_text, first)
            facts = loop.run()
        except (InterruptedRunError, PreemptedError, DiskError, DataError) as error:
            flags = [flag for prefix in trusted for flag in ("--trust", prefix)]
            again = folder.command(storage, *flags, *to_type_again(typed))
            raise type(error)(f"{error} Go on with: {again}") from None
    params = facts.best.params if facts.best is not None else {}
    command = shell_words(["wgan-train", *search.words, *as_overrides(params)])
    runs = {trial.number: folder.trial(trial.number) for trial in facts.trials}
    print_text(final_summary(facts, runs, command))
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


def _check(
    search: Search, typed: Sequence[str] = (), trusted: Sequence[str] = ()
) -> dict[str, Value]:
    """Check trials at the ends of all ranges and with all choices; return the values for trial 0.

    These values are the config's own values of the searched settings, where the search space
    includes them. The dict is empty if the config is not valid without values from the space.
    All words but the `typed` ones come from a file, as the space does. Raises `ConfigError` if a
    checked trial is not valid, and `CheckpointError` if it has a class that is not trusted.
    """
    from wgan_cli.commands.composition import Composer, without_hydra
    from wgan_cli.commands.search_words import SEVERAL_VALUES, refuse_unsafe
    from wgan_cli.commands.trust import check_trusted
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
    for words in search.corners():
        refuse_unsafe([word for word in words if word not in typed])
    composer = Composer()
    if any(len(values) > 1 for values in composer.choices(search.words)):
        raise ConfigError(SEVERAL_VALUES)
    for words in search.corners():
        config = validate(without_hydra(composer.compose(words)))
        check_trusted(as_dict(config), trusted)
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


def _command(words: Sequence[str], folder: Path, trusted: Sequence[str] = ()) -> list[str]:
    """Return the command of a trial. The trial resumes if `folder` already holds a checkpoint."""
    from wgan_cli.commands.composition import quoted

    run_dir = f"hydra.run.dir={quoted(str(folder.absolute()))}"
    flags = [flag for prefix in trusted for flag in ("--trust", prefix)]
    return [sys.executable, "-c", _TRIAL, *words, run_dir, "resume=auto", *flags]
