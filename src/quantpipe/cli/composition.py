"""What the command line asks Hydra for: read, composed and checked before Hydra runs anything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from quantpipe.errors import ConfigurationError

PRIMARY = "config"
"""The name of the primary configuration."""

COMPOSITION_FAULTS = (HydraException, OmegaConfBaseException, YAMLError)
"""What composing may raise, for :func:`explain`."""

# Hydra runs what its own node names before any of our checks. Where it chooses and starts the jobs
# of a sweep, what installed plugins registered may stand, and nowhere anything else.
_PLUGGED_IN = ("hydra.sweeper", "hydra.launcher")
# What plugins take as text and run: Optuna's a function, Slurm's the lines of a shell.
_CODE_AS_TEXT = frozenset({"custom_search_space", "setup"})
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


def check_composition(arguments: argparse.Namespace) -> DictConfig:
    """Composes the configuration, and refuses code that Hydra would run by itself.

    Returns:
        What was composed.

    Raises:
        ConfigurationError: for code that is not Hydra's own.
        HydraException: for what cannot be composed; see :func:`explain`.
    """
    setup_globals()
    mode = RunMode.MULTIRUN if arguments.multirun else RunMode.RUN
    config = loader(arguments).load_configuration(
        arguments.config_name or PRIMARY,
        overrides=arguments.overrides,
        run_mode=mode,
        validate_sweep_overrides=False,
    )
    node = OmegaConf.to_container(config.hydra, resolve=False)
    registered = _registered_targets()
    texts = override_texts(config.hydra.overrides.hydra)
    given = {text.partition("=")[0].lstrip("+") for text in texts}
    for path, key, value in leaves(node, "hydra"):
        typed = key in _CODE_AS_TEXT and f"{path}.{key}" in given
        if not typed and not _is_trusted(path, key, value, registered):
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
    return config


def _is_trusted(path: str, key: str, value: Any, registered: Set[str]) -> bool:
    text = str(value)
    plugged_in = path.startswith(_PLUGGED_IN)
    if key == "_target_":
        return plugged_in and text in registered
    if key in ("()", "class"):
        return text.startswith(_TRUSTED_LOGGING)
    return not (plugged_in and key in _CODE_AS_TEXT and value)


def _registered_targets() -> Set[str]:
    """What installed plugins name as code in the settings that they registered with Hydra."""
    found = {
        f"{plugin.__module__}.{plugin.__name__}"
        for kind in (Launcher, Sweeper)
        for plugin in Plugins.instance().discover(kind)
    }
    groups = [ConfigStore.instance().repo.get("hydra", {})]
    while groups:
        for entry in groups.pop().values():
            if isinstance(entry, dict):
                groups.append(entry)
            elif OmegaConf.is_config(entry.node):
                node = OmegaConf.to_container(entry.node, resolve=False)
                found |= {str(value) for _, key, value in leaves(node, "") if key == "_target_"}
    return found


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


def override_texts(overrides: Any) -> list[str]:
    """Overrides as they were typed; read one by one, their interpolations would be resolved."""
    texts = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(texts, list)
    return [str(text) for text in texts]


def own_keys(config: DictConfig) -> list[str]:
    """The keys that are not Hydra's."""
    return [str(key) for key in config if key != "hydra"]


def asks_for_version() -> bool:
    """Whether ``--version`` was given: Hydra would print its own."""
    return "--version" in sys.argv[1:]
