"""Compose configs with Hydra, and explain its errors in plain words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
)
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from wgan_cli.commands.config_source import use_checked_source
from wgan_cli.commands.sweep_values import check_count, values_of
from wgan_cli.config import GROUPS, configs_folder
from wgan_cli.errors import ConfigError, WganError
from wgan_cli.files import reading
from wgan_cli.process_control import shell_words
from wgan_cli.run_folder import RunFolder
from wgan_cli.untrusted_files import read_yaml
from wgan_cli.validation import flatten, is_writable, nearest, no_setting, override_key

PRIMARY = "train"
_SAVED = "_saved_config"
# Maps each launcher to the extra of this package that installs it.
_LAUNCHERS = {"joblib": "parallel", "submitit_local": "slurm", "submitit_slurm": "slurm"}
# The number of characters of an override that a message shows.
_LONGEST = 80
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
        except WganError:
            raise
        # Hydra raises many kinds of errors for what users write, even KeyError and AssertionError.
        except Exception as error:
            raise ConfigError(self.plain_words(error)) from error

    def choices(self, overrides: Sequence[str]) -> list[list[str]]:
        """Return a list for each key of a sweep, with one override per value, like Hydra's sweeper.

        The values come from `overrides` and from the sweep that an experiment defines. If both
        contain a key, `overrides` counts. If `overrides` contains a key twice, the last one counts.
        """
        typed = values_of(parse(overrides), self._options_of)
        composed = self.compose([values[0] for values in typed.values()])
        params = composed.hydra.sweeper.get("params") or {}
        swept = parse([f"{key}={values}" for key, values in params.items()])
        choices = list({**values_of(swept, self._options_of), **typed}.values())
        check_count(choices)
        return choices

    def _options_of(self, group: str) -> list[str]:
        folders = [configs_folder(), *([self.config_dir] if self.config_dir else [])]
        return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})

    def _refuse_lists(self, overrides: Sequence[str]) -> None:
        """Refuse overrides with no or several options for a group of one; Hydra allows them."""
        for override in parse(overrides):
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
            if "${" in str(value):
                raise ConfigError(
                    f"{override.input_line}: {group} takes the name of an option, not a reference."
                )
            if group == "logger" and value in (None, []):
                raise ConfigError(f"{override.input_line}: for no logger, type logger=none.")
            if value is None and not override.is_delete():
                raise ConfigError(
                    f"{override.input_line}: {group} takes the name of one option;"
                    " wgan-train --help lists them."
                )

    def plain_words(self, error: Exception) -> str:
        """Return one or two plain sentences for an error of Hydra or OmegaConf."""
        text = str(error)
        if isinstance(error, RecursionError):
            return "The configs refer to themselves in a circle, or are nested too deeply."
        if isinstance(error, YAMLError):
            return f"A config file cannot be read: {' '.join(text.split())}"
        if isinstance(error, MissingConfigException):
            return self._missing_option(error)
        if isinstance(error, OSError):
            name = _cut(str(error.filename))
            return f"A config cannot be read: {name}: {error.strerror or error}."
        ambiguous = re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)'", text)
        if ambiguous:
            return (
                f"{ambiguous[1]} holds several values: add -m to run them all, or write [a,b] for a"
                " list."
            )
        merging = re.match("Error merging override (.+)", text)
        if merging and error.__cause__ is not None:
            return f"{merging[1]}: {str(error.__cause__).splitlines()[0].rstrip('.')}."
        override = re.search(r"Could not (?:override|append to config) '(.+?)'", text)
        if override and isinstance(error, ConfigCompositionException):
            return self._unknown_key(override[1])
        words = " ".join(line.strip() for line in text.splitlines() if line.strip())
        if isinstance(error, HydraException | OmegaConfBaseException | ValueError):
            return words
        return f"The configs cannot be put together: {type(error).__name__} {words}".rstrip() + "."

    def _missing_option(self, error: MissingConfigException) -> str:
        missing = re.search(r"Could not find '(.+?)/([^/']*)'", str(error))
        if not missing:
            name = str(error.missing_cfg_file)
            group, _, option = name.rpartition("/")
            if group in (*ONE_OPTION, "logger"):
                return f"{group}={option}: there is no such option."
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
    with reading(f"--config-dir {config_dir}", ConfigError):
        found, is_run = config_dir.is_dir(), RunFolder(config_dir).holds_run()
    if not found:
        raise ConfigError(f"--config-dir {config_dir}: there is no such folder.")
    if is_run:
        raise ConfigError(
            f"--config-dir {config_dir} is a run's folder: add --config-name config to repeat the"
            " run. Options of your own go into another folder."
        )


def parse(overrides: Sequence[str]) -> list[Override]:
    """Return the parsed overrides. Raises `ConfigError`."""
    parser, parsed = OverridesParser.create(), []
    for override in overrides:
        if not is_writable(override):
            raise ConfigError(
                f"{_cut(ascii(override))} holds bytes that are no text in this locale; all letters"
                " are text in one with UTF-8, as with LC_ALL=C.UTF-8."
            )
        try:
            parsed.append(parser.parse_override(override))
        except (HydraException, ValueError, RecursionError) as error:
            if isinstance(error, RecursionError):
                raise ConfigError(f"{_cut(override)!r} is nested too deeply.") from None
            raise ConfigError(
                f"{_cut(override)!r} cannot be read; write KEY=VALUE, and quote special characters."
            ) from None
    return parsed


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


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
    return f"{key}={text}" if plain else shell_words([f"{key}={quoted(text)}"])


def typed_value(overrides: Sequence[str], key: str) -> str | None:
    """Return the last value of `key` in the overrides, or None if it has no value or is null.

    Raises `ConfigError` if the value cannot be read.
    """
    value = None
    for override in overrides:
        name, equals, text = override.partition("=")
        if equals and name.lstrip("+") == key:
            parsed = parse([override])[0].value()
            value = parsed if isinstance(parsed, str) else text
    return None if value in (None, "", "null") else value
