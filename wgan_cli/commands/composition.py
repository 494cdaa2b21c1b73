"""Compose configs with Hydra, and explain its errors in plain words."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
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
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from wgan_cli.commands.config_source import use_checked_source
from wgan_cli.config import GROUPS, configs_folder
from wgan_cli.errors import ConfigError
from wgan_cli.run_folder import RunFolder
from wgan_cli.untrusted_files import read_yaml
from wgan_cli.validation import flatten, nearest, no_setting, override_key

PRIMARY = "train"
_SAVED = "_saved_config"
# Maps each launcher to the extra of this package that installs it.
_LAUNCHERS = {"joblib": "parallel", "submitit_local": "slurm", "submitit_slurm": "slurm"}
ONE_OPTION = (*GROUPS, "experiment", "debug")


class Composer:
    """Compose configs with Hydra, and report mistakes in one or two sentences.

    `config_name` is the primary config. `config_dir` is a user's own folder of options, or None.
    """

    def __init__(self, config_name: str = PRIMARY, config_dir: Path | None = None) -> None:
        if config_dir is not None:
            _refuse_no_options(config_dir)
        use_checked_source()
        self.config_name = config_name
        self.config_dir = config_dir

    @property
    def flags(self) -> list[str]:
        """The command-line flags that pass this composer's config name and folder to Hydra."""
        flags = ["--config-name", self.config_name]
        return flags if self.config_dir is None else [*flags, "--config-dir", str(self.config_dir)]

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the composed config, including the `hydra` node. Raises `ConfigError`."""
        self._refuse_lists(overrides)
        overrides = list(overrides)
        if self.config_dir is not None:
            overrides.append(f"hydra.searchpath=[{quoted(f'file://{self.config_dir.absolute()}')}]")
        try:
            with initialize_config_dir(str(configs_folder()), PRIMARY, version_base="1.3"):
                return compose(self.config_name, overrides=overrides, return_hydra_config=True)
        except (CompactHydraException, OmegaConfBaseException, ValueError, YAMLError) as error:
            raise ConfigError(self._plain_words(error)) from error

    def choices(self, overrides: Sequence[str]) -> list[list[str]]:
        """Return a list for each key of a sweep, with one override per value, like Hydra's sweeper.

        The values come from `overrides` and from the sweep that an experiment defines. If both
        contain a key, `overrides` counts. If `overrides` contains a key twice, the last one counts.
        """
        typed = _values(self._parsed(overrides))
        composed = self.compose([values[0] for values in typed.values()])
        params = composed.hydra.sweeper.get("params") or {}
        swept = self._parsed([f"{key}={values}" for key, values in params.items()])
        return list({**_values(swept), **typed}.values())

    def _parsed(self, overrides: Sequence[str]) -> list[Override]:
        try:
            return OverridesParser.create().parse_overrides(list(overrides))
        except (CompactHydraException, ValueError) as error:
            raise ConfigError(self._plain_words(error)) from error

    def _refuse_lists(self, overrides: Sequence[str]) -> None:
        """Refuse overrides with no or several options for a group of one; Hydra allows them."""
        for override in self._parsed(overrides):
            group = override.key_or_group
            if not group:
                raise ConfigError(f"{override.input_line!r} cannot be read; write KEY=VALUE.")
            if group not in (*ONE_OPTION, "logger") or override.is_sweep_override():
                continue
            value = override.value()
            if isinstance(value, list) and group in ONE_OPTION:
                raise ConfigError(
                    f"{override.input_line}: {group} takes one option; -m {group}=a,b runs each."
                )
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
            quoted_override = re.search(r"parsing override '(.+?)'", text)
            shown = quoted_override[1] if quoted_override else error.override
            return f"{shown!r} cannot be read; write KEY=VALUE, and quote special characters."
        merging = re.match("Error merging override (.+)", text)
        if merging and error.__cause__ is not None:
            return f"{merging[1]}: {str(error.__cause__).splitlines()[0].rstrip('.')}."
        override = re.search(r"Could not (?:override|append to config) '(.+?)'", text)
        if override and isinstance(error, ConfigCompositionException):
            return self._unknown_key(override[1])
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
        with initialize_config_dir(str(configs_folder()), version_base="1.3"):
            plain = OmegaConf.to_container(compose(PRIMARY))
        known = [name for name in flatten(plain) if not name.startswith("dataset.recommended")]
        known += [*ONE_OPTION, "logger"]
        if key in known:
            return f"{key} is a setting of another option of {key.partition('.')[0]}, not of this."
        return f"{no_setting(key, known)} wgan-train --cfg job lists them all."


def _refuse_no_options(config_dir: Path) -> None:
    """Raise `ConfigError` if `config_dir` does not exist or is a run's folder.

    A run's folder may come from somebody else. Hydra would compose any file in it, such as
    `hydra/launcher/basic.yaml`, and call what it names.
    """
    if not config_dir.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: there is no such folder.")
    if RunFolder(config_dir).holds_run():
        raise ConfigError(
            f"--config-dir {config_dir} is a run's folder: add --config-name config to repeat the"
            " run. Options of your own go into another folder."
        )


def jobs_of(choices: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the overrides of every job of a sweep: one list for each combination of choices."""
    return [list(job) for job in itertools.product(*choices)]


def samples_of(choices: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the overrides of a few jobs that together contain every value of a sweep.

    In each job, at most one key differs from its first value. Keys and types are checked value by
    value, so checking these jobs is enough to check all combinations.
    """
    base = [values[0] for values in choices]
    changed = [
        [*base[:index], value, *base[index + 1 :]]
        for index, values in enumerate(choices)
        for value in values[1:]
    ]
    return [base, *changed]


def _values(overrides: Sequence[Override]) -> dict[str, list[str]]:
    """Return one override per value for each key. Raises `ConfigError` for a continuous sweep."""
    single: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_discrete_sweep():
            single[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        elif override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line}: the basic sweeper takes lists of values (0.1,0.2)."
            )
        else:
            single[key] = [f"{key}={override.get_value_element_as_str()}"]
    return single


def register_saved(config: dict[str, Any], overrides: Sequence[str]) -> str:
    """Register a run's saved config as a primary config of Hydra; return the config's name.

    If an override chooses an option of a group, this option replaces the group's saved settings. A
    root setting that `config` lacks gets the value from the shipped config.
    """
    chosen = {override_key(override): override for override in overrides}
    for key in ("experiment", "debug"):
        if key in chosen:
            raise ConfigError(
                f"{chosen[key]}: a saved config holds every setting already, so no {key} can be"
                " laid under it; type the settings themselves."
            )
    train = read_yaml(configs_folder() / f"{PRIMARY}.yaml")
    hydra_choices = [
        entry
        for entry in train["defaults"]
        if isinstance(entry, dict) and next(iter(entry)).startswith("override ")
    ]
    # A config without the key `logger` is older than this group; use the group's default.
    logger = None if "logger" in config else "tensorboard"
    options = [*({group: None} for group in GROUPS), {"logger": logger}]
    replaced = chosen.keys() & {*GROUPS, "logger"}
    node = {
        **train,
        "defaults": [*options, "_self_", *hydra_choices],
        **{key: value for key, value in config.items() if key not in replaced},
    }
    ConfigStore.instance().store(name=_SAVED, node=node)
    return _SAVED


def without_hydra(composed: DictConfig) -> DictConfig:
    """Return a copy of a composed config without the `hydra` node."""
    plain = composed.copy()
    with open_dict(plain):
        del plain["hydra"]
    return plain


def quoted(value: str) -> str:
    """Return the text quoted as one value in Hydra's override grammar."""
    return QuotedString(value, Quote.single).with_quotes()


def typeable(key: str, path: Path) -> str:
    """Return the override `key=path`. If the path needs it, quote it for Hydra and the shell."""
    text = str(path)
    plain = re.fullmatch(r"[\w./:+@-]+", text, re.ASCII)
    return f"{key}={text}" if plain else shlex.quote(f"{key}={quoted(text)}")


def typed_value(overrides: Sequence[str], key: str) -> str | None:
    """Return the last value of `key` in the overrides, or None if it has no value or is null."""
    value = None
    for override in overrides:
        name, _, text = override.partition("=")
        if name.lstrip("+") == key:
            value = text
            with suppress(CompactHydraException, ValueError):
                parsed = OverridesParser.create().parse_override(f"key={text}").value()
                value = parsed if isinstance(parsed, str) else text
    return None if value in (None, "", "null") else value
