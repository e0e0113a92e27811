"""From a composed configuration to a checked run: values; the steps are wired beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from quantpipe.cli.cache import CacheSettings
from quantpipe.cli.steps import (
    VARIANT_DEFAULTS,
    VARIANTS,
    Skipped,
    Wired,
    WiredSteps,
    is_step,
    wired_steps,
)
from quantpipe.core.pipeline import Pipeline
from quantpipe.core.runner import check_pipeline
from quantpipe.errors import ConfigurationError, nearest
from quantpipe.report.objective import KEY, Objective, read_objectives
from quantpipe.schema import Between, build, convert
from quantpipe.settings.data import DataSettings
from quantpipe.settings.device import resolve_device
from quantpipe.settings.engine import EngineSettings
from quantpipe.settings.model import ModelSettings
from quantpipe.settings.training import TrainerSettings

GROUPS: Mapping[str, Any] = {
    "data": DataSettings,
    "model": ModelSettings,
    "engine": EngineSettings,
    "cache": CacheSettings,
    "trainer": TrainerSettings,
}
"""Root keys that hold a group of settings; steps refer to them by interpolation (``${model}``)."""


@dataclass(frozen=True, kw_only=True)
class RootSettings:
    """The root keys that are no group and no step."""

    seed: Annotated[int, Between(0, 2**31 - 1)]
    device: Literal["auto", "cpu", "cuda"]
    run_dir: Path
    cache_dir: Path
    objective: str | tuple[str, ...] | None
    debug: bool


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """A recipe: its name and its steps in order."""

    name: str
    steps: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise ConfigurationError("no step is listed", path="steps")


@dataclass(frozen=True, kw_only=True)
class CheckedRun:
    """What to do, where, and the configuration and overrides it came from.

    ``variants`` holds what is made and compared, ``skipped`` what this machine or its engine cannot
    run, and why. ``objectives`` is what a sweeper is told of it.
    """

    pipeline: Pipeline
    settings: RootSettings
    device: str
    composed: Mapping[str, Any]
    overrides: tuple[str, ...]
    variants: Mapping[str, Wired]
    skipped: Mapping[str, Skipped]
    objectives: tuple[Objective, ...]


def read_run(config: DictConfig, overrides: Sequence[str]) -> CheckedRun:
    """Turns a composed configuration into a checked run; writes nothing.

    Raises:
        QuantpipeError: one line that names the key, the value and the nearest valid one.
    """
    composed = _plain(config)
    _refuse_targets(composed, "")
    root = RootSettings.__dataclass_fields__
    recipe = build(PipelineSettings, composed.get("pipeline"), "pipeline")
    known = {*root, *GROUPS, "pipeline", VARIANTS, VARIANT_DEFAULTS, *recipe.steps}
    _refuse_unknown(composed, known, recipe)
    settings = build(RootSettings, {name: composed.get(name) for name in root}, "")
    for name, kind in GROUPS.items():
        convert(kind, composed.get(name), name)
    wired = wired_steps(composed, recipe.name, recipe.steps)
    pipeline = Pipeline(name=recipe.name, steps=wired.steps)
    device = resolve_device(settings.device)
    check_pipeline(pipeline)
    _refuse_own_results(pipeline, settings.run_dir)
    return CheckedRun(
        pipeline=pipeline,
        settings=settings,
        device=device,
        composed=composed,
        overrides=tuple(overrides),
        variants=wired.variants,
        skipped=wired.skipped,
        objectives=_objectives(settings.objective, wired),
    )


def _objectives(texts: str | tuple[str, ...] | None, wired: WiredSteps) -> tuple[Objective, ...]:
    compared = any(declared.many for step in wired.steps for declared in step.stage.inputs.values())
    objectives = read_objectives(texts, [*wired.variants, *wired.skipped] if compared else ())
    for objective in objectives:
        if objective.variant in wired.skipped:
            reason = wired.skipped[objective.variant].reason
            raise ConfigurationError(f"{objective.variant} is left out: {reason}", path=KEY)
    return objectives


def read_cache_settings(config: DictConfig) -> tuple[CacheSettings, Path]:
    """What to do with the cache, and its folder; the recipe is not looked at.

    Raises:
        ConfigurationError: one line that names the key, the value and the nearest valid one.
    """
    chosen = _plain(OmegaConf.masked_copy(config, ["cache", "cache_dir"]))
    settings = build(CacheSettings, chosen.get("cache"), "cache")
    return settings, convert(Path, chosen.get("cache_dir"), "cache_dir")


def to_yaml(composed: Mapping[str, Any]) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(composed)))


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key or "?"
        raise ConfigurationError("is not set", path=key, hint=f"add {key}=VALUE") from error
    except OmegaConfBaseException as error:
        cause = (error.msg or str(error)).splitlines()[0]
        raise ConfigurationError(cause, path=error.full_key or None) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _refuse_unknown(composed: Mapping[str, Any], known: Set[str], recipe: PipelineSettings) -> None:
    """Refuses root keys that mean nothing; a step may be configured and left out of the list."""
    for key, value in composed.items():
        if key not in known and not is_step(value):
            hint = nearest(key, known)
            raise ConfigurationError(f"pipeline {recipe.name} has no such key", path=key, hint=hint)


def _refuse_own_results(pipeline: Pipeline, run_dir: Path) -> None:
    """Refuses files that the run itself would replace, with all that lies beside them.

    A training that is told to take its own checkpoint would leave that alone, and its history and
    scales would be gone.
    """
    made = {run_dir.resolve() / step.name: step.name for step in pipeline.steps}
    for step in pipeline.steps:
        for name, path in _paths(step.config, step.name):
            maker = next(
                (made[folder] for folder in path.resolve().parents if folder in made), None
            )
            if maker is not None:
                raise ConfigurationError(
                    f"{path} is a result of '{maker}' in this run directory, which this run would "
                    "replace",
                    path=name,
                    hint="set another run_dir, or copy the file",
                )


def _paths(value: Any, name: str) -> Iterator[tuple[str, Path]]:
    """The paths in a configuration, with the names of their settings."""
    if isinstance(value, Path):
        yield name, value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _paths(getattr(value, field.name), f"{name}.{field.name}")


def _refuse_targets(value: Any, path: str) -> None:
    """Nothing in a configuration names code: stages and engines come from explicit tables."""
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    for key, inner in items:
        if str(key).startswith("_") and str(key).endswith("_"):
            raise ConfigurationError(
                f"'{key}' is refused: a configuration cannot name code to run",
                path=path or "root",
                hint="remove it; a step names its stage with 'stage:'",
            )
        _refuse_targets(inner, f"{path}.{key}" if path else str(key))
