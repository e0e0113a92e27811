"""From a composed configuration to a checked pipeline; values and wiring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from quantpipe.core.availability import without_unavailable
from quantpipe.core.pipeline import Pipeline, Reference, Step
from quantpipe.core.runner import check_pipeline
from quantpipe.core.stage import Stage
from quantpipe.errors import ConfigurationError, nearest
from quantpipe.schema import Between, build, convert, convert_given
from quantpipe.settings.cache import CacheSettings
from quantpipe.settings.data import DataSettings
from quantpipe.settings.device import resolve_device
from quantpipe.settings.engine import EngineSettings
from quantpipe.settings.model import ModelSettings
from quantpipe.settings.training import TrainerSettings
from quantpipe.stages import STAGES

GROUPS: Mapping[str, Any] = {
    "data": DataSettings,
    "model": ModelSettings,
    "engine": EngineSettings,
    "cache": CacheSettings,
    "trainer": TrainerSettings,
}
"""Root keys that hold a group of settings; steps refer to them by interpolation (``${model}``)."""

_WIRING = frozenset({"stage", "inputs", "each", "optional"})


@dataclass(frozen=True, kw_only=True)
class RootSettings:
    """The root keys that are no group and no step."""

    seed: Annotated[int, Between(0, 2**31 - 1)]
    device: Literal["auto", "cpu", "cuda"]
    run_dir: Path
    cache_dir: Path
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
class Plan:
    """A checked run: what to do, where, and the configuration and overrides it came from."""

    pipeline: Pipeline
    settings: RootSettings
    device: str
    composed: Mapping[str, Any]
    overrides: tuple[str, ...]
    skipped: Mapping[str, str]


def read_plan(config: DictConfig, overrides: Sequence[str]) -> Plan:
    """Turns a composed configuration into a checked plan; writes nothing.

    Raises:
        QuantpipeError: one line that names the key, the value and the nearest valid one.
    """
    composed = _plain(config)
    _refuse_targets(composed, "")
    root = RootSettings.__dataclass_fields__
    recipe = build(PipelineSettings, composed.get("pipeline"), "pipeline")
    _refuse_unknown(composed, {*root, *GROUPS, "pipeline", *recipe.steps}, recipe)
    settings = build(RootSettings, {name: composed.get(name) for name in root}, "")
    for name, kind in GROUPS.items():
        convert(kind, composed.get(name), name)
    steps = tuple(step for name in recipe.steps for step in _steps_of(name, composed, recipe))
    steps, skipped = without_unavailable(steps)
    pipeline = Pipeline(name=recipe.name, steps=steps)
    device = resolve_device(settings.device)
    check_pipeline(pipeline)
    return Plan(
        pipeline=pipeline,
        settings=settings,
        device=device,
        composed=composed,
        overrides=tuple(overrides),
        skipped=skipped,
    )


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
        if key not in known and not _is_step(value):
            hint = nearest(key, known)
            raise ConfigurationError(f"pipeline {recipe.name} has no such key", path=key, hint=hint)


def _is_step(value: Any) -> bool:
    return isinstance(value, Mapping) and "stage" in value


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


def _steps_of(name: str, composed: Mapping[str, Any], recipe: PipelineSettings) -> Iterator[Step]:
    """The step called ``name``, or one step for every entry of its ``each``."""
    values = composed.get(name)
    if not isinstance(values, Mapping) or not _is_step(values):
        hint = nearest(name, [key for key, value in composed.items() if _is_step(value)])
        raise ConfigurationError(
            f"pipeline {recipe.name} lists it, but no such step is configured", path=name, hint=hint
        )
    each = values.get("each")
    if each is None:
        yield _step(name, values)
        return
    if not isinstance(each, Mapping) or not each:
        raise ConfigurationError("is not a group of variants", path=f"{name}.each")
    base = {key: value for key, value in values.items() if key != "each"}
    # Here, and not under a variant's name, the user finds the key of a wrong shared value; and a
    # value that every variant replaces is looked at all the same.
    convert_given(_stage(name, base).config_type, _settings(base), name)
    for variant, changes in each.items():
        if not isinstance(changes, Mapping):
            raise ConfigurationError("is not a group of settings", path=f"{name}.each.{variant}")
        inputs = {**base.get("inputs", {}), **changes.get("inputs", {})}
        yield _step(f"{name}.{variant}", {**base, **changes, "inputs": inputs})


def _step(name: str, values: Mapping[str, Any]) -> Step:
    stage = _stage(name, values)
    inputs = values.get("inputs") or {}
    if not isinstance(inputs, Mapping):
        raise ConfigurationError(f"{inputs!r} is not a group of references", path=f"{name}.inputs")
    return Step(
        name=name,
        stage=stage,
        config=build(stage.config_type, _settings(values), name),
        inputs={
            str(key): Reference.parse(text, f"{name}.inputs.{key}")
            for key, text in inputs.items()
            if text is not None
        },
        optional=convert(bool, values.get("optional", False), f"{name}.optional"),
    )


def _stage(name: str, values: Mapping[str, Any]) -> Stage[Any]:
    wanted = values.get("stage")
    stage = STAGES.get(str(wanted))
    if stage is None:
        raise ConfigurationError(
            f"{wanted!r} is no stage", path=f"{name}.stage", hint=nearest(str(wanted), STAGES)
        )
    return stage


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _WIRING}
