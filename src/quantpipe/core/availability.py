"""Leaving out optional steps that cannot run here, and saying why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from quantpipe.core.pipeline import Step
from quantpipe.errors import ConfigurationError, MachineError


def without_unavailable(steps: Iterable[Step]) -> tuple[tuple[Step, ...], dict[str, str]]:
    """Drops every optional step whose check fails, and what it would have fed.

    An input of any name (as those of an evaluation) or one that may be left out is unwired; a
    step that needs the missing output is an error.

    Returns:
        The steps that remain, and the reason for each that was dropped.

    Raises:
        ConfigurationError: A remaining step cannot do without a dropped one.
    """
    listed = tuple(steps)
    skipped: dict[str, str] = {}
    while found := {
        step.name: reason
        for step in listed
        if step.name not in skipped and (reason := _obstacle(step, skipped)) is not None
    }:
        skipped |= found
    kept = tuple(_unwired(step, skipped) for step in listed if step.name not in skipped)
    return kept, skipped


def _obstacle(step: Step, skipped: Mapping[str, str]) -> str | None:
    if not step.optional:
        return None
    for name, reference in step.inputs.items():
        declared = step.stage.inputs.get(name)
        if reference.step in skipped and declared is not None and declared.required:
            return f"{reference} was left out: {skipped[reference.step]}"
    try:
        step.stage.check(step.config)
    except (MachineError, ConfigurationError) as error:
        return str(error)
    return None


def _unwired(step: Step, skipped: Mapping[str, str]) -> Step:
    inputs = dict(step.inputs)
    for name, reference in step.inputs.items():
        if reference.step not in skipped:
            continue
        declared = step.stage.inputs.get(name)
        if declared is not None and declared.required:
            raise ConfigurationError(
                f"{reference} was left out: {skipped[reference.step]}",
                path=f"{step.name}.inputs.{name}",
                hint="make this step optional too, or wire another output",
            )
        del inputs[name]
        for prefix in step.stage.companion_prefixes:
            inputs.pop(prefix + name, None)
    return replace(step, inputs=inputs)
