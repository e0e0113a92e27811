"""How Hydra reads a YAML file: as text that people hand over, whatever marks it begins with."""

from __future__ import annotations

import io
from pathlib import Path

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from omegaconf import OmegaConf

from quantpipe.errors import ConfigurationError
from quantpipe.given_files import read_text

_HEADER = 512  # characters in which Hydra looks for '# @package'


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's own overlooks ``# @package`` behind a byte order mark; it goes by its name."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Reads a file below the folder of this source.

        Raises:
            ConfigLoadError: There is no such file.
            ConfigurationError: It cannot be read, or is no text.
        """
        path = Path(self.path) / self._normalize_file_name(config_path)
        if not path.exists():
            raise ConfigLoadError(f"Config not found : {path}")
        text = read_text(path, ConfigurationError)
        return ConfigResult(
            config=OmegaConf.load(io.StringIO(text)),
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=self._get_header_dict(text[:_HEADER]),
        )


def read_configurations_as_text() -> None:
    """Has Hydra read every file of a configuration by the class above."""
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
