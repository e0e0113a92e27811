"""Steps and their wiring, checked when built."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from quantpipe.core.stage import Input, Stage
from quantpipe.errors import ConfigurationError, nearest

# A step's name becomes a folder, its dots the levels.
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_WRITE = "write <step> or <step>.<output>"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An output of a step, written ``<step>.<output>``.

    ``output`` is None where the text was ``<step>`` alone: the one that fits is meant. ``key`` is
    where it was written, for errors; empty where that is the input itself.
    """

    step: str
    output: str | None
    key: str = field(default="", compare=False)

    @staticmethod
    def parse(text: Any, path: str, steps: Collection[str]) -> Reference:
        """Reads the name of one of ``steps``, or else splits at the last dot.

        Step names may hold dots themselves (``export.qat``).
        """
        if isinstance(text, str) and text in steps:
            return Reference(step=text, output=None, key=path)
        step, _, output = text.rpartition(".") if isinstance(text, str) else ("", "", "")
        if step in steps and output:
            return Reference(step=step, output=output, key=path)
        if not isinstance(text, str) or not _NAME.fullmatch(text):
            raise ConfigurationError(f"{text!r} is not a reference", path=path, hint=_WRITE)
        of_variants = any(name.startswith(f"{step}.") for name in steps)
        wanted = text if of_variants or not step else step
        raise ConfigurationError(
            f"there is no step {wanted!r}", path=path, hint=nearest(wanted, steps)
        )

    def __str__(self) -> str:
        return self.step if self.output is None else f"{self.step}.{self.output}"


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage with its configuration and the outputs that feed it.

    One that is ``optional`` may fail: it is skipped, and so is what is optional behind it.
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
        wired = [_wired(step, by_name) for step in self.steps]
        object.__setattr__(self, "steps", _in_order(wired))


def _check_names(step: Step) -> None:
    stage = step.stage
    if not _NAME.fullmatch(step.name):
        hint = "take letters, digits, - and _"
        raise ConfigurationError(f"{step.name!r} is no name", path="pipeline.steps", hint=hint)
    for name in step.inputs:
        if stage.input_of(name) is None:
            raise ConfigurationError(
                f"stage {stage.name} has no such input",
                path=f"{step.name}.inputs.{name}",
                hint=nearest(name, stage.inputs),
            )
    given = {name.partition(".")[0] for name in step.inputs}
    for name, declared in stage.inputs.items():
        if declared.required and name not in given:
            hint = "list one under variants:" if declared.many else _WRITE
            raise ConfigurationError(
                f"stage {stage.name} needs it ({_kinds(declared)})",
                path=f"{step.name}.inputs.{name}",
                hint=hint,
            )


def _wired(step: Step, by_name: Mapping[str, Step]) -> Step:
    """The step with every reference checked, and its output named."""
    inputs = {name: _edge(step, name, ref, by_name) for name, ref in step.inputs.items()}
    return replace(step, inputs=inputs)


def _edge(
    step: Step, input_name: str, reference: Reference, by_name: Mapping[str, Step]
) -> Reference:
    path = reference.key or f"{step.name}.inputs.{input_name}"
    source = by_name.get(reference.step)
    if source is None:
        raise ConfigurationError(
            f"there is no step {reference.step!r}", path=path, hint=nearest(reference.step, by_name)
        )
    declared = step.stage.input_of(input_name)
    assert declared is not None
    outputs = source.stage.outputs
    if reference.output is None:
        return replace(reference, output=_fitting(source, declared, path))
    if reference.output not in outputs:
        raise ConfigurationError(
            f"step {source.name} has no output {reference.output!r}",
            path=path,
            hint=nearest(reference.output, outputs),
        )
    kind = outputs[reference.output].kind
    if kind not in declared.kinds:
        raise ConfigurationError(f"{reference} is a {kind}, not a {_kinds(declared)}", path=path)
    return reference


def _fitting(source: Step, declared: Input, path: str) -> str:
    """The one output of a step that an input takes."""
    outputs = source.stage.outputs
    fitting = [name for name, output in outputs.items() if output.kind in declared.kinds]
    if len(fitting) == 1:
        return fitting[0]
    amount, hint = "no", f"it makes {', '.join(outputs)}"
    if fitting:
        amount = "more than one"
        hint = f"write {' or '.join(f'{source.name}.{name}' for name in fitting)}"
    raise ConfigurationError(
        f"step {source.name} makes {amount} {_kinds(declared)}", path=path, hint=hint
    )


def _kinds(declared: Input) -> str:
    return " or ".join(sorted(kind.name for kind in declared.kinds))


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
