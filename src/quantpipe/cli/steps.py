"""The steps of a recipe, those of the table of variants among them, and how they are wired."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from quantpipe.core.pipeline import Reference, Step
from quantpipe.core.stage import PerVariant, Stage
from quantpipe.errors import (
    ConfigurationError,
    MachineError,
    QuantpipeError,
    UnsupportedError,
    nearest,
)
from quantpipe.files import canonical_json
from quantpipe.schema import build
from quantpipe.settings.variants import VariantSettings
from quantpipe.stages import STAGES

VARIANTS, VARIANT_DEFAULTS = "variants", "variant_defaults"

_WIRING = frozenset({"stage", "inputs"})
_FORMER = {
    "each": "list what is compared under variants:, a line each, as ptq: {model: calibrate, "
    "precision: int8}",
    "optional": "set it in a line of variants:",
}
_FORMER_INPUTS = {
    "checkpoint": "a model holds its weights, ranges and plan: wire model: <step>",
    "onnx": "the variants: table says which graph an engine is built from",
}
_FORMER_INPUTS |= dict.fromkeys(("scales", "plan"), _FORMER_INPUTS["checkpoint"])


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A variant that was left out."""

    precision: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Wired:
    """A variant that is made, and the step that makes the last of it."""

    precision: str
    step: str


@dataclass(frozen=True, kw_only=True)
class WiredSteps:
    """The steps as listed, the variants, and those that were left out."""

    steps: tuple[Step, ...]
    variants: Mapping[str, Wired]
    skipped: Mapping[str, Skipped]


def is_step(value: Any) -> bool:
    """Whether a value of the configuration is the group of a step."""
    return isinstance(value, Mapping) and "stage" in value


def wired_steps(composed: Mapping[str, Any], recipe: str, names: Sequence[str]) -> WiredSteps:
    """Builds the steps of a recipe; one that works for each variant becomes several.

    Variants that need the same of a step share it, under the name of the first.

    Raises:
        ConfigurationError: A step or a variant is not configured, or wrong; names its key.
    """
    groups = {name: _group(name, composed, recipe) for name in names}
    stages = {name: _stage(name, values) for name, values in groups.items()}
    per_variant = {name for name, stage in stages.items() if stage.per_variant is not None}
    table = _variants(composed, wanted=any(_follows_variants(s) for s in stages.values()))
    skipped = {
        name: Skipped(precision=row.precision, reason=reason)
        for name, row in table.items()
        if row.optional
        and (
            reason := _unlisted(row, composed, names)
            or _obstacle(row, {n: groups[n] for n in per_variant})
        )
    }
    rows = {name: row for name, row in table.items() if name not in skipped}
    if skipped and not rows:
        reason = next(iter(skipped.values())).reason
        raise ConfigurationError(f"none of them can be built: {reason}", path=VARIANTS)
    makers = set(names) - per_variant
    known = {*makers, *(f"{n}.{v}" for n in per_variant for v in rows)}
    chain = _Chain(
        rows=rows,
        at={name: _model(name, row, composed, makers, known) for name, row in rows.items()},
    )
    # The variants go through all that works for each, before anything takes what came of them.
    expanded = {
        name: tuple(chain.expanded(name, groups[name], stages[name]))
        for name in names
        if name in per_variant
    }
    steps = [
        step
        for name in names
        for step in expanded.get(name)
        or (_plain_step(name, groups[name], stages[name], chain, known),)
    ]
    variants = {
        name: Wired(precision=rows[name].precision, step=place.step)
        for name, place in chain.at.items()
    }
    return WiredSteps(steps=tuple(steps), variants=variants, skipped=skipped)


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """The rows of the table, and how far along the steps each of them has come."""

    rows: Mapping[str, VariantSettings]
    at: dict[str, Reference] = field(default_factory=dict)

    def expanded(self, name: str, values: Mapping[str, Any], stage: Stage[Any]) -> Iterator[Step]:
        """One step for every variant, or for all that need the same."""
        role = stage.per_variant
        assert role is not None
        if values.get("inputs"):
            raise ConfigurationError(
                "its inputs follow from the variants", path=f"{name}.inputs", hint=_FORMER["each"]
            )
        build(stage.config_type, _own(values), name)  # what every row replaces is checked too
        made: dict[str, Step] = {}
        for variant, row in self.rows.items():
            settings = _settings_for(row, values, role)
            same = canonical_json({"settings": settings, "from": str(self.at[variant])})
            first = made.get(same) or Step(
                name=f"{name}.{variant}",
                stage=stage,
                config=build(stage.config_type, settings, name),
                inputs={role.input: self.at[variant]},
                optional=True,
            )
            made[same] = replace(first, optional=first.optional and row.optional)
            self.at[variant] = Reference(step=first.name, output=role.output)
        yield from made.values()


def _model(
    name: str,
    row: VariantSettings,
    composed: Mapping[str, Any],
    makers: Collection[str],
    known: Collection[str],
) -> Reference:
    """Where a row's model comes from; only steps that are not of a variant are proposed."""
    path = f"{VARIANTS}.{name}.model"
    if row.model not in known and (reason := _unlisted(row, composed, makers)):
        hint = f"list it, or strike the row out with {VARIANTS}.{name}=null"
        raise ConfigurationError(reason, path=path, hint=hint)
    return Reference.parse(row.model, path, known if row.model in known else makers)


def _unlisted(
    row: VariantSettings, composed: Mapping[str, Any], listed: Collection[str]
) -> str | None:
    """Says that the step of a row's model is configured and yet no part of the pipeline, if so."""
    for step in (row.model, row.model.rpartition(".")[0]):
        if step not in listed and is_step(composed.get(step)):
            return f"step '{step}' is not listed in pipeline.steps"
    return None


def _plain_step(
    name: str, values: Mapping[str, Any], stage: Stage[Any], chain: _Chain, known: Collection[str]
) -> Step:
    given = values.get("inputs") or {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{given!r} is not a group of references", path=f"{name}.inputs")
    _refuse_former_inputs(name, given, stage)
    inputs = {
        str(key): Reference.parse(text, f"{name}.inputs.{key}", known)
        for key, text in given.items()
        if text is not None
    }
    for group, declared in stage.inputs.items():
        if declared.many:
            inputs |= {f"{group}.{variant}": place for variant, place in chain.at.items()}
    return Step(
        name=name, stage=stage, config=build(stage.config_type, _own(values), name), inputs=inputs
    )


def _follows_variants(stage: Stage[Any]) -> bool:
    many = any(declared.many for declared in stage.inputs.values())
    return many or stage.per_variant is not None


def _variants(composed: Mapping[str, Any], *, wanted: bool) -> dict[str, VariantSettings]:
    """The rows of the table, with what they leave out filled in."""
    table = composed.get(VARIANTS) or {}
    defaults = composed.get(VARIANT_DEFAULTS) or {}
    for path, value in ((VARIANTS, table), (VARIANT_DEFAULTS, defaults)):
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"{value!r} is not a table", path=path, hint=_FORMER["each"])
    build(VariantSettings, {"model": "", **defaults}, VARIANT_DEFAULTS)
    rows = {}
    for name, row in table.items():
        path = f"{VARIANTS}.{name}"
        if row is None:  # struck out on the command line
            continue
        if not isinstance(row, Mapping):
            raise ConfigurationError(f"{row!r} is not a row", path=path, hint=_FORMER["each"])
        rows[str(name)] = build(VariantSettings, {**defaults, **row}, path)
    if wanted and not rows:
        raise ConfigurationError("nothing is listed", path=VARIANTS, hint=_FORMER["each"])
    return rows if wanted else {}


def _obstacle(row: VariantSettings, groups: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why this machine or the engine cannot run a variant, if so."""
    for name, values in groups.items():
        stage = _stage(name, values)
        assert stage.per_variant is not None
        config = build(stage.config_type, _settings_for(row, values, stage.per_variant), name)
        try:
            stage.check(config)
        except (MachineError, UnsupportedError) as error:
            return str(error)
        except QuantpipeError:  # a wrong setting or missing data, of which the check of all tells
            return None
    return None


def _settings_for(
    row: VariantSettings, values: Mapping[str, Any], role: PerVariant
) -> dict[str, Any]:
    return {**_own(values), **role.settings(vars(row))}


def _group(name: str, composed: Mapping[str, Any], recipe: str) -> Mapping[str, Any]:
    values = composed.get(name)
    if not isinstance(values, Mapping) or not is_step(values):
        hint = nearest(name, [key for key, value in composed.items() if is_step(value)])
        raise ConfigurationError(
            f"pipeline {recipe} lists it, but no such step is configured", path=name, hint=hint
        )
    for key, instead in _FORMER.items():
        if key in values:
            raise ConfigurationError(
                "is of a former release's recipes", path=f"{name}.{key}", hint=instead
            )
    return values


def _refuse_former_inputs(name: str, given: Mapping[str, Any], stage: Stage[Any]) -> None:
    for key in given:
        if key in stage.inputs and stage.inputs[key].many:
            raise ConfigurationError(
                "follows from the variants", path=f"{name}.inputs.{key}", hint=_FORMER["each"]
            )
        hint = _FORMER_INPUTS.get(str(key))
        if any(declared.many for declared in stage.inputs.values()):
            hint = _FORMER["each"]
        if key not in stage.inputs and hint is not None:
            raise ConfigurationError(
                f"stage {stage.name} has no such input", path=f"{name}.inputs.{key}", hint=hint
            )


def _stage(name: str, values: Mapping[str, Any]) -> Stage[Any]:
    wanted = values.get("stage")
    stage = STAGES.get(str(wanted))
    if stage is None:
        raise ConfigurationError(
            f"{wanted!r} is no stage", path=f"{name}.stage", hint=nearest(str(wanted), STAGES)
        )
    return stage


def _own(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _WIRING}
