"""From what was typed to composed configs, with Hydra's complaints in plain words."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import (
    CompactHydraException,
    ConfigCompositionException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from wgan_cli.config import GROUPS, configs_folder
from wgan_cli.errors import ConfigError
from wgan_cli.validation import flatten, nearest, no_setting

PRIMARY = "train"
_SAVED = "_saved_config"
# The extra that brings each.
_LAUNCHERS = {"joblib": "parallel", "submitit_local": "slurm", "submitit_slurm": "slurm"}
ONE_OPTION = (*GROUPS, "experiment", "debug")


class Composer:
    """Composes configs as Hydra will, and says what is wrong in one or two sentences.

    `config_dir` is a user's own folder of options; `config_name` the primary config.
    """

    def __init__(self, config_name: str = PRIMARY, config_dir: Path | None = None) -> None:
        if config_dir is not None and not config_dir.is_dir():
            raise ConfigError(f"--config-dir {config_dir}: there is no such folder.")
        self.config_name = config_name
        self.config_dir = config_dir

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The whole config, Hydra's node included. Raises `ConfigError`."""
        self._refuse_lists(overrides)
        words = list(overrides)
        if self.config_dir is not None:
            words.append(f"hydra.searchpath=[{quoted(f'file://{self.config_dir.absolute()}')}]")
        try:
            with initialize_config_dir(str(configs_folder()), version_base="1.3"):
                return compose(self.config_name, overrides=words, return_hydra_config=True)
        except (CompactHydraException, OmegaConfBaseException, ValueError, YAMLError) as error:
            raise ConfigError(self._plain_words(error)) from error

    def jobs(self, overrides: Sequence[str]) -> list[list[str]]:
        """Every job's words, as Hydra will start them: all combinations, a recipe's own included.

        A later word for a key replaces an earlier one, and any word a recipe's.
        """
        return [list(words) for words in itertools.product(*self._choices(overrides))]

    def samples(self, overrides: Sequence[str]) -> list[list[str]]:
        """Every value of a sweep in at least one job's words, others at their first.

        Types and keys depend on one value at a time, so these stand for all combinations.
        """
        choices = self._choices(overrides)
        first = [values[0] for values in choices]
        more = [
            [*first[:place], value, *first[place + 1 :]]
            for place, values in enumerate(choices)
            for value in values[1:]
        ]
        return [first, *more]

    def _choices(self, overrides: Sequence[str]) -> list[list[str]]:
        """Of each word all that it stands for, as the basic sweeper sees them."""
        typed = _values(self._parsed(overrides))
        composed = self.compose([values[0] for values in typed.values()])
        params = composed.hydra.sweeper.get("params") or {}
        own = self._parsed([f"{key}={values}" for key, values in params.items()])
        return list({**_values(own), **typed}.values())

    def _parsed(self, overrides: Sequence[str]) -> list[Override]:
        try:
            return OverridesParser.create().parse_overrides(list(overrides))
        except (CompactHydraException, ValueError) as error:
            raise ConfigError(self._plain_words(error)) from error

    def _refuse_lists(self, overrides: Sequence[str]) -> None:
        """Hydra lays a list of options over each other: the last would win, unseen."""
        for override in self._parsed(overrides):
            group = override.key_or_group
            if not group:
                raise ConfigError(f"{override.input_line!r} cannot be read; write KEY=VALUE.")
            if group not in (*ONE_OPTION, "logger"):
                continue
            value = None if override.is_sweep_override() else override.value()
            if isinstance(value, list) and group in ONE_OPTION:
                raise ConfigError(
                    f"{override.input_line}: {group} takes one option; -m {group}=a,b runs each."
                )
            if override.is_sweep_override():
                continue
            if group == "logger" and value in (None, []):
                raise ConfigError(f"{override.input_line}: for no logger, type logger=none.")
            if value is None and not override.is_delete():
                raise ConfigError(
                    f"{override.input_line}: {group} takes the name of one option;"
                    " wgan-train --help lists them."
                )

    def _plain_words(self, error: Exception) -> str:
        text = str(error)
        if isinstance(error, YAMLError):
            return f"A config file cannot be read: {' '.join(text.split())}"
        if isinstance(error, MissingConfigException):
            return self._missing_option(error)
        ambiguous = re.search(r"Ambiguous value for argument '(.+?)'", text)
        if ambiguous:
            return (
                f"{ambiguous[1]} holds several values: add -m to run them all, or write [a,b] for a"
                " list."
            )
        if isinstance(error, OverrideParseException):
            word = re.search(r"parsing override '(.+?)'", text)
            shown = word[1] if word else error.override
            return f"{shown!r} cannot be read; write KEY=VALUE, and quote special characters."
        merging = re.match("Error merging override (.+)", text)
        if merging and error.__cause__ is not None:
            return f"{merging[1]}: {str(error.__cause__).splitlines()[0].rstrip('.')}."
        override = re.search(r"Could not (?:override|append to config) '(.+?)'", text)
        if override and isinstance(error, ConfigCompositionException):
            key = override[1]
            if isinstance(error.__cause__, ConfigAttributeError | ConfigKeyError) or key in text:
                return self._unknown_key(key)
        return " ".join(line.strip() for line in text.splitlines() if line.strip())

    def _missing_option(self, error: MissingConfigException) -> str:
        missing = re.search(r"Could not find '(.+?)/([^/']*)'", str(error))
        if not missing:
            name = error.missing_cfg_file
            return f"--config-name {name}: there is no {name}.yaml in --config-dir."
        group, name = missing[1], missing[2]
        if group == "hydra/launcher" and name in _LAUNCHERS:
            return (
                f"{group}={name} needs a package that is not installed:"
                f" pip install 'wgan-train[{_LAUNCHERS[name]}]'."
            )
        options = [str(option) for option in error.options or []]
        known = f"; {group} is one of {', '.join(options)}" if options else ""
        return f"{group}={name}: there is no such option{known}.{nearest(name, options)}"

    def _unknown_key(self, key: str) -> str:
        try:
            with initialize_config_dir(str(configs_folder()), version_base="1.3"):
                plain = OmegaConf.to_container(compose(PRIMARY))
        except Exception:
            plain = {}
        advice = "dataset.recommended"
        known = [name for name in flatten(plain) if not name.startswith(advice)]
        known += [*GROUPS, "logger", "experiment", "debug"]
        if key in known:
            return f"{key} is a setting of another option of {key.partition('.')[0]}, not of this."
        return f"{no_setting(key, known)} wgan-train --cfg job lists them all."


def _values(overrides: Sequence[Override]) -> dict[str, list[str]]:
    """Key to the words that an override stands for."""
    found: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_discrete_sweep():
            found[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        elif override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line}: the basic sweeper takes lists of values (0.1,0.2)."
            )
        else:
            found[key] = [f"{key}={override.get_value_element_as_str()}"]
    return found


def register_saved(config: dict[str, Any], overrides: Sequence[str]) -> str:
    """Make a run's saved config composable, with every override and shipped option on top.

    The saved nodes stand in for the groups' options; a group that is chosen anew drops its saved
    node. A root setting that an earlier version did not save is the shipped one. Returns the
    config's name.
    """
    for word in overrides:
        key = word.partition("=")[0].lstrip("+~")
        if key in ("experiment", "debug"):
            raise ConfigError(
                f"{word}: a saved config holds every setting already, so no {key} can be laid under"
                " it; type the settings themselves."
            )
    groups = (*GROUPS, "logger")
    chosen = {word.partition("=")[0].lstrip("+~") for word in overrides}
    train = OmegaConf.to_container(OmegaConf.load(configs_folder() / f"{PRIMARY}.yaml"))
    assert isinstance(train, dict)
    hydra_choices = [
        entry
        for entry in train["defaults"]
        if isinstance(entry, dict) and next(iter(entry)).startswith("override ")
    ]
    node = {
        **train,
        "defaults": [*({group: None} for group in groups), "_self_", *hydra_choices],
        **{key: value for key, value in config.items() if key not in chosen & set(groups)},
    }
    ConfigStore.instance().store(name=_SAVED, node=node)
    return _SAVED


def quoted(value: str) -> str:
    """A text as one value of Hydra's override grammar."""
    return QuotedString(value, Quote.single).with_quotes()


def typeable(key: str, path: Path) -> str:
    """`key=path` as it is typed in a shell, whatever characters a folder's name has."""
    text = str(path)
    plain = re.fullmatch(r"[\w./:+@-]+", text, re.ASCII)
    return f"{key}={text}" if plain else shlex.quote(f"{key}={quoted(text)}")


def typed_value(overrides: Sequence[str], key: str) -> str | None:
    """The last value typed for a key, or None. A null counts as none."""
    value = None
    for word in overrides:
        name, _, text = word.partition("=")
        if name.lstrip("+") == key:
            value = _unquoted(text)
    return None if value in (None, "", "null") else value


def _unquoted(text: str) -> str:
    try:
        value = OverridesParser.create().parse_override(f"key={text}").value()
    except (CompactHydraException, ValueError):
        return text
    return value if isinstance(value, str) else text
