"""Hydra's and OmegaConf's faults in one line, with the nearest name that is known."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from quantpipe.cli.composition import (
    COMPOSITION_FAULTS,
    PRIMARY,
    leaves,
    loader,
    own_keys,
    read_arguments,
)
from quantpipe.errors import ConfigurationError, nearest

# Former releases listed variants below each step.
_FORMER = re.compile(r"\.each\b|evaluate\.inputs\.")
_VARIANTS = "variants are listed once, under variants: ~variants.half leaves one out"


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
    if _FORMER.search(text):
        return ConfigurationError(text.rstrip("."), hint=_VARIANTS)
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
    options = loader(read_arguments()).get_group_options(group)
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
    siblings = [f"{found}.{name}" if found else name for name in own_keys(node)]
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
    plain = OmegaConf.to_container(OmegaConf.masked_copy(config, own_keys(config)), resolve=False)
    settings = [f"{path}.{name}".lstrip(".") for path, name, _ in leaves(plain, "")]
    alike = difflib.get_close_matches(key, [*settings, *siblings], n=1, cutoff=0.8)
    leaf = key.rpartition(".")[2]
    same = [name for name in settings if name.rpartition(".")[2] == leaf]
    meant = alike or same[:3]
    if meant:
        return f"did you mean {' or '.join(repr(name) for name in meant)}?"
    return nearest(key, siblings)


def _composed_without_faults(overrides: Sequence[str] | None) -> DictConfig:
    """What the group choices alone compose to."""
    arguments = read_arguments()
    look = loader(arguments)
    groups = set(look.list_groups(""))
    given = arguments.overrides if overrides is None else overrides
    choices = [text for text in given if text.partition("=")[0].lstrip("+~") in groups]
    name = arguments.config_name or PRIMARY
    try:
        return look.load_configuration(name, overrides=choices, run_mode=RunMode.RUN)
    except COMPOSITION_FAULTS:
        return look.load_configuration(name, overrides=[], run_mode=RunMode.RUN)
