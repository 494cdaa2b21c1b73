"""Let Hydra read YAML files with this package's checked reader."""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

from wgan_cli.errors import ConfigError
from wgan_cli.untrusted_files import MOST_YAML, parse_yaml, read_text, reason

# The number of characters in which Hydra looks for a header such as "# @package _global_".
_HEADER = 512


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's source of YAML files, with `untrusted_files` as its reader.

    It has the name of Hydra's own class. Worker processes of a sweep get it from their parent and
    then register Hydra's plugins, and Hydra refuses a second source of another name.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the config in a file. Raises `ConfigError` if the file cannot be read."""
        path = Path(self.path, self._normalize_file_name(config_path))
        if not path.exists():
            raise ConfigLoadError(f"Config not found: {path}")
        try:
            text = read_text(path, MOST_YAML)
            node = parse_yaml(text)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read: {reason(error)}.") from None
        if not isinstance(node, dict | None):
            raise ConfigError(f"{path} holds no settings.")
        return ConfigResult(
            config=OmegaConf.create(node or {}),
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=ConfigSource._get_header_dict(text[:_HEADER]),
        )


def use_checked_source() -> None:
    """Make Hydra read all YAML files with `FileConfigSource`."""
    # Hydra registers its own source when it looks for its plugins.
    Plugins.instance()
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
