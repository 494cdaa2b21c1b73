"""Read the flags of `wgan-train`, and refuse those that do not go together."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from wgan_cli.distributed.process import Process
from wgan_cli.errors import ConfigError

if TYPE_CHECKING:
    from argparse import Namespace

_SHELLS = ("bash", "zsh", "fish")


def parse(arguments: Sequence[str]) -> Namespace:
    """Return the flags and the overrides. Raises `ConfigError`."""
    from hydra._internal.utils import get_args_parser

    if any("\0" in argument for argument in arguments):
        _refuse("An argument holds a zero byte, which no name can hold")
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    parsed = parser.parse_intermixed_args(arguments)
    parsed.overrides = [with_names_quoted(override) for override in parsed.overrides]
    if parsed.config_path or parsed.experimental_rerun:
        _refuse("--config-path and --experimental-rerun are not supported; use --config-dir")
    modes = {
        "-m": parsed.multirun and not parsed.cfg and not parsed.hydra_help,
        "--run": parsed.run,
        "--cfg": parsed.cfg,
        "--info": parsed.info,
        "--shell-completion": parsed.shell_completion,
        "--hydra-help": parsed.hydra_help,
    }
    chosen = [flag for flag, given in modes.items() if given]
    if len(chosen) > 1:
        _refuse(f"{' and '.join(chosen)} do not go together; leave one out")
    for flag, given in (("--resolve", parsed.resolve), ("--package", parsed.package)):
        if given and not parsed.cfg:
            _refuse(f"{flag} changes what --cfg shows, and does nothing without it")
    if parsed.shell_completion:
        _check_completion(parsed.overrides)
    return parsed


def with_names_quoted(override: str) -> str:
    """Return the override with quotes around values such as `/data/jörg/images`.

    Hydra's grammar takes no letters but those of ASCII without quotes. Text that has other special
    characters stays as it is.
    """
    key, equals, values = override.partition("=")
    if values.isascii() or not re.fullmatch(r"[\w./:+@,-]+", values):
        return override
    quoted = [value if value.isascii() else f"'{value}'" for value in values.split(",")]
    return f"{key}{equals}{','.join(quoted)}"


def refuse_multirun(resume: str | None) -> None:
    """Raise `ConfigError` if -m, or hydra.mode=MULTIRUN, does not go with the rest."""
    if Process.current().world > 1:
        raise ConfigError(
            "-m starts many runs, and torchrun trains one run in many processes: leave one of them"
            " out, or use hydra/launcher=joblib for several runs at once."
        )
    if resume not in (None, "auto"):
        raise ConfigError(
            "resume=RUN goes on with one run and -m starts many; to go on with a sweep, start it"
            " again with its hydra.sweep.dir."
        )


def take(arguments: list[str], *names: str) -> list[str]:
    """Remove `NAME VALUE` and `NAME=VALUE` from the arguments; return the values."""
    values = []
    for index in reversed(range(len(arguments))):
        name, equals, value = arguments[index].partition("=")
        if name in names:
            if not equals and index + 1 >= len(arguments):
                raise ConfigError(f"{name} needs a value.")
            values.append(value if equals else arguments.pop(index + 1))
            del arguments[index]
    return values[::-1]


def _check_completion(words: Sequence[str]) -> None:
    """Raise `ConfigError` for words that Hydra's completion does not know."""
    action, _, shell = words[0].partition("=") if len(words) == 1 else ("", "", "")
    if action not in ("install", "uninstall", "query") or shell not in _SHELLS:
        names = ", ".join(f"install={name}" for name in _SHELLS)
        _refuse(f"-sc takes one of {names}, and uninstall= likewise")
    if action == "query" and "COMP_LINE" not in os.environ:
        _refuse(f"-sc query={shell} is asked by the shell itself, which says what was typed")


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message}; wgan-train --help lists all flags.")
