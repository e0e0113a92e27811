"""Steps and their wiring, checked when built."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from quantpipe.core.stage import Stage
from quantpipe.errors import ConfigurationError, nearest

# A step's name becomes a folder, its dots the levels.
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An output of a step, written ``<step>.<output>``."""

    step: str
    output: str

    @staticmethod
    def parse(text: Any, path: str) -> Reference:
        """Splits at the last dot: step names may hold dots themselves (``export.qat``)."""
        step, dot, output = text.rpartition(".") if isinstance(text, str) else ("", "", "")
        if not (step and dot and output):
            raise ConfigurationError(
                f"{text!r} is not a reference", path=path, hint="write <step>.<output>"
            )
        return Reference(step=step, output=output)

    def __str__(self) -> str:
        return f"{self.step}.{self.output}"


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage with its configuration and the outputs that feed it.

    An ``optional`` step is left out where the machine cannot run it.
    """

    name: str
    stage: Stage[Any]
    config: Any
    inputs: Mapping[str, Reference]
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Steps in an order in which each comes after what it reads.

    Raises:
        ConfigurationError: for an unknown step, output or input, a wrong kind, a missing input,
            or a cycle.
    """

    name: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        by_name: dict[str, Step] = {}
        for step in self.steps:
            if step.name in by_name:
                raise ConfigurationError(f"{step.name} is listed twice", path="pipeline.steps")
            by_name[step.name] = step
        for step in self.steps:
            _check_names(step)
            for input_name, reference in step.inputs.items():
                _check_edge(step, input_name, reference, by_name)
            _check_together(step, by_name)
        object.__setattr__(self, "steps", _in_order(self.steps))


def _check_names(step: Step) -> None:
    stage = step.stage
    if not _NAME.fullmatch(step.name):
        hint = "take letters, digits, - and _"
        raise ConfigurationError(f"{step.name!r} is no name", path="pipeline.steps", hint=hint)
    for name in step.inputs:
        if name not in stage.inputs and stage.any_inputs is None:
            raise ConfigurationError(
                f"stage {stage.name} has no such input",
                path=f"{step.name}.inputs.{name}",
                hint=nearest(name, stage.inputs),
            )
    for name, declared in stage.inputs.items():
        if declared.required and name not in step.inputs:
            kinds = " or ".join(sorted(declared.kinds))
            raise ConfigurationError(
                f"stage {stage.name} needs it ({kinds})",
                path=f"{step.name}.inputs.{name}",
                hint="wire it as <step>.<output>",
            )
    if stage.any_inputs is not None and not step.inputs:
        raise ConfigurationError("nothing is wired", path=f"{step.name}.inputs")


def _check_edge(
    step: Step, input_name: str, reference: Reference, by_name: Mapping[str, Step]
) -> None:
    path = f"{step.name}.inputs.{input_name}"
    source = by_name.get(reference.step)
    if source is None:
        raise ConfigurationError(
            f"there is no step {reference.step!r}", path=path, hint=nearest(reference.step, by_name)
        )
    outputs = source.stage.outputs
    if reference.output not in outputs:
        raise ConfigurationError(
            f"step {source.name} has no output {reference.output!r}",
            path=path,
            hint=nearest(reference.output, outputs),
        )
    declared = step.stage.inputs.get(input_name) or step.stage.any_inputs
    assert declared is not None
    kind = outputs[reference.output].kind
    if kind not in declared.kinds:
        wanted = " or ".join(sorted(declared.kinds))
        raise ConfigurationError(f"{reference} is a {kind}, not a {wanted}", path=path)


def _check_together(step: Step, by_name: Mapping[str, Step]) -> None:
    kinds = {
        name: by_name[reference.step].stage.outputs[reference.output].kind
        for name, reference in step.inputs.items()
    }
    try:
        step.stage.check_wiring(step.config, kinds)
    except ConfigurationError as error:
        error.path = f"{step.name}.inputs.{error.path}"
        raise


def _in_order(steps: Iterable[Step]) -> tuple[Step, ...]:
    by_name = {step.name: step for step in steps}
    graph = {s.name: {reference.step for reference in s.inputs.values()} for s in by_name.values()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise ConfigurationError(
            f"the steps form a cycle: {cycle}", path="pipeline.steps", hint="cut one of its inputs"
        ) from error
    return tuple(by_name[name] for name in _as_listed(list(by_name), graph))


def _as_listed(listed: list[str], graph: Mapping[str, set[str]]) -> list[str]:
    """The listed order wherever the wiring allows it, so that logs read like the recipe."""
    placed: list[str] = []
    while listed:
        ready = next(name for name in listed if graph[name] <= set(placed))
        listed.remove(ready)
        placed.append(ready)
    return placed
