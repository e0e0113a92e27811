"""What the command line asks Hydra for: read, composed and checked before Hydra runs anything.

Hydra's own faults become one line here, with the nearest name that is known.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from quantpipe.errors import ConfigurationError, nearest

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
    config = _loader(arguments).load_configuration(
        arguments.config_name or PRIMARY,
        overrides=arguments.overrides,
        run_mode=mode,
        validate_sweep_overrides=False,
    )
    node = OmegaConf.to_container(config.hydra, resolve=False)
    for path, key, value in _leaves(node, "hydra"):
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
    OmegaConf.to_container(OmegaConf.masked_copy(config, _own(config)), resolve=True)


def _is_trusted(key: str, value: Any) -> bool:
    text = str(value)
    if key == "_target_":
        return text == _OWN_CALLBACK or text.startswith(_TRUSTED_TARGETS)
    if key in ("()", "class"):
        return text.startswith(_TRUSTED_LOGGING)
    return True


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Yields (path of the mapping, key, value) of everything below a mapping or a list."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield path, str(key), inner
            yield from _leaves(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")


def _loader(arguments: argparse.Namespace) -> ConfigLoaderImpl:
    """Looks where Hydra will look."""
    search_path = create_config_search_path(arguments.config_path or str(config_folder()))
    if arguments.config_dir is not None:
        folder = Path(arguments.config_dir).absolute()
        if not folder.is_dir():
            raise ConfigurationError("there is no such folder", path=f"--config-dir {folder}")
        search_path.prepend("command-line", f"file://{folder}", anchor="schema")
    return ConfigLoaderImpl(config_search_path=search_path)


def explain(error: Exception, overrides: Sequence[str] | None = None) -> ConfigurationError:
    """Hydra's and OmegaConf's faults in one line, with the nearest name where one is wrong.

    ``overrides`` are those of the job of a sweep; otherwise those of the command line count.
    """
    if isinstance(error, YAMLError):
        return ConfigurationError(str(error).strip(), hint="see the YAML at that place")
    if isinstance(error, MissingConfigException):
        return _unknown_option(error)
    if isinstance(error, OverrideParseException) or "Could not override ''" in str(error):
        hint = "put a value with commas, spaces or brackets in quotes: 'key=\"a, b\"'"
        return ConfigurationError(
            "cannot be read as key=value", path=getattr(error, "override", None), hint=hint
        )
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = _first_line(error)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        named = re.search(r"Could not (?:override|append to config|delete)[^']*'([^']+)'", text)
        failed = str(cause.full_key or cause.key)
        return _unknown_setting(named[1] if named else "", failed, overrides)
    if isinstance(cause, OmegaConfBaseException):
        key = cause.full_key or None
        return ConfigurationError(_first_line(cause).rstrip("."), path=key)
    return ConfigurationError(text.rstrip(".") or "cannot be composed", hint=_advice(error))


def _advice(error: Exception) -> str | None:
    """What Hydra adds below the first line, where it helps."""
    if _first_line(error).startswith("Ambiguous value"):
        return "give -m to sweep over the values"
    guesses = [line.strip() for line in str(error).splitlines() if line.startswith("Did you mean")]
    return guesses[0] if guesses else None


def _first_line(error: BaseException) -> str:
    """The first line, and the next one too where the first only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])


def _unknown_option(error: MissingConfigException) -> ConfigurationError:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return ConfigurationError(_first_line(error), hint="see quantpipe --info searchpath")
    options = _loader(read_arguments()).get_group_options(group)
    return ConfigurationError(
        f"group '{group}' has no option '{option}'", hint=nearest(option, options)
    )


def _unknown_setting(
    given: str, failed: str, overrides: Sequence[str] | None
) -> ConfigurationError:
    """Names the first part of a dotted key that is not there, and what is meant perhaps.

    ``given`` is the key on the command line, ``failed`` the one that could not be set: another
    where the value given is a group.
    """
    config = _composed_without_faults(overrides)
    key = given or failed
    found, node = _longest_known(key, config)
    if found == key:
        key = failed
        found, node = _longest_known(key, config)
    if not isinstance(node, DictConfig):
        return ConfigurationError(f"{found} is a value, not a group of settings", path=key)
    siblings = [f"{found}.{name}" if found else name for name in _own(node)]
    cause = "there is no such setting"
    if not found:
        cause = f"pipeline {config.pipeline.name} has no such setting"
    return ConfigurationError(cause, path=key, hint=_nearest_setting(key, siblings, config))


def _longest_known(key: str, config: DictConfig) -> tuple[str, Any]:
    """The part of a dotted key that is in the configuration, and what stands there."""
    node: Any = config
    found: list[str] = []
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            break
        node = node._get_node(part)
        found.append(part)
    return ".".join(found), node


def _nearest_setting(key: str, siblings: Sequence[str], config: DictConfig) -> str:
    """A key that is spelled alike, or the same name elsewhere, or else what is beside it."""
    plain = OmegaConf.to_container(OmegaConf.masked_copy(config, _own(config)), resolve=False)
    settings = [f"{path}.{name}".lstrip(".") for path, name, _ in _leaves(plain, "")]
    alike = difflib.get_close_matches(key, [*settings, *siblings], n=1, cutoff=0.8)
    leaf = key.rpartition(".")[2]
    same = [name for name in settings if name.rpartition(".")[2] == leaf]
    meant = alike or same[:3]
    if meant:
        return f"did you mean {' or '.join(repr(name) for name in meant)}?"
    return nearest(key, siblings)


def _own(config: DictConfig) -> list[str]:
    return [str(key) for key in config if key != "hydra"]


def _composed_without_faults(overrides: Sequence[str] | None) -> DictConfig:
    """What the group choices alone compose to."""
    arguments = read_arguments()
    loader = _loader(arguments)
    groups = set(loader.list_groups(""))
    given = arguments.overrides if overrides is None else overrides
    choices = [text for text in given if text.partition("=")[0].lstrip("+~") in groups]
    name = arguments.config_name or PRIMARY
    try:
        return loader.load_configuration(name, overrides=choices, run_mode=RunMode.RUN)
    except COMPOSITION_FAULTS:
        return loader.load_configuration(name, overrides=[], run_mode=RunMode.RUN)


def asks_for_version() -> bool:
    """Whether ``--version`` was given: Hydra would print its own."""
    return "--version" in sys.argv[1:]
