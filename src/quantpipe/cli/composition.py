"""What the command line asks Hydra for: read, composed and checked before Hydra runs anything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from quantpipe.errors import ConfigurationError

PRIMARY = "config"
"""The name of the primary configuration."""

COMPOSITION_FAULTS = (HydraException, OmegaConfBaseException, YAMLError)
"""What composing may raise, for :func:`explain`."""

# Hydra runs what its own node names before any of our checks: only Hydra's parts, installed
# plugins and our callback may stand there.
_TRUSTED_TARGETS = ("hydra._internal.core_plugins.", "hydra_plugins.")
_OWN_CALLBACK = "quantpipe.cli.command.SweepCallback"
_TRUSTED_LOGGING = ("logging.", "colorlog.")
_REFUSED_OPTIONS = {
    "experimental_rerun": "it reads a pickle; give the overrides again instead",
    "config_path": "name your own folder with --config-dir: it adds to the shipped one",
}


def config_folder() -> Path:
    """The shipped configuration: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def read_arguments() -> argparse.Namespace:
    """The command line as Hydra reads it.

    Raises:
        ConfigurationError: for an unknown option, or one without its value.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigurationError(message, hint="see quantpipe --help")

    parser.error = refuse  # type: ignore[method-assign]
    arguments = parser.parse_args()
    for option, instead in _REFUSED_OPTIONS.items():
        if getattr(arguments, option) is not None:
            name = "--" + option.replace("_", "-")
            raise ConfigurationError("this option is refused", path=name, hint=instead)
    return arguments


def check_composition(arguments: argparse.Namespace) -> None:
    """Composes the configuration, and refuses code that Hydra would run by itself.

    Raises:
        ConfigurationError: for code that is not Hydra's own.
        HydraException: for what cannot be composed; see :func:`explain`.
    """
    mode = RunMode.MULTIRUN if arguments.multirun else RunMode.RUN
    config = loader(arguments).load_configuration(
        arguments.config_name or PRIMARY,
        overrides=arguments.overrides,
        run_mode=mode,
        validate_sweep_overrides=False,
    )
    node = OmegaConf.to_container(config.hydra, resolve=False)
    for path, key, value in leaves(node, "hydra"):
        if not _is_trusted(key, value):
            raise ConfigurationError(
                f"{value!r} is refused: a configuration cannot name code to run",
                path=f"{path}.{key}",
                hint="remove it",
            )
    if "pipeline" not in config:
        hint = "begin its file with '# @package _global_' and set pipeline.name and pipeline.steps"
        raise ConfigurationError("the recipe lists no steps", path="pipeline", hint=hint)
    # Hydra would stumble over an interpolation on its way to our own checks.
    OmegaConf.to_container(OmegaConf.masked_copy(config, own_keys(config)), resolve=True)


def _is_trusted(key: str, value: Any) -> bool:
    text = str(value)
    if key == "_target_":
        return text == _OWN_CALLBACK or text.startswith(_TRUSTED_TARGETS)
    if key in ("()", "class"):
        return text.startswith(_TRUSTED_LOGGING)
    return True


def leaves(value: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Yields (path of the mapping, key, value) of everything below a mapping or a list."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield path, str(key), inner
            yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{index}]")


def loader(arguments: argparse.Namespace) -> ConfigLoaderImpl:
    """Looks where Hydra will look."""
    search_path = create_config_search_path(arguments.config_path or str(config_folder()))
    if arguments.config_dir is not None:
        folder = Path(arguments.config_dir).absolute()
        if not folder.is_dir():
            raise ConfigurationError("there is no such folder", path=f"--config-dir {folder}")
        search_path.prepend("command-line", f"file://{folder}", anchor="schema")
    return ConfigLoaderImpl(config_search_path=search_path)


def own_keys(config: DictConfig) -> list[str]:
    """The keys that are not Hydra's."""
    return [str(key) for key in config if key != "hydra"]


def asks_for_version() -> bool:
    """Whether ``--version`` was given: Hydra would print its own."""
    return "--version" in sys.argv[1:]
