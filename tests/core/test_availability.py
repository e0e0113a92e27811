"""Optional steps that a machine cannot run are left out, with what they would have fed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.availability import without_unavailable
from quantpipe.core.pipeline import Reference, Step
from quantpipe.core.stage import Input, Output, Stage, takes
from quantpipe.errors import ConfigurationError, MachineError


@dataclass(frozen=True)
class Nothing:
    """A configuration without settings."""


def _refuse(config: Nothing) -> None:
    raise MachineError("no such library")


ENGINE = Stage[Nothing](
    name="engine",
    version=1,
    config_type=Nothing,
    outputs={"engine": Output(kind=ArtifactKind.ENGINE, file="engine")},
    run=lambda *_: {},
)
COMPARE = Stage[Nothing](
    name="compare",
    version=1,
    config_type=Nothing,
    any_inputs=Input(kinds=frozenset({ArtifactKind.ENGINE})),
    companion_prefixes=("graph_", "parity_"),
    outputs={},
    run=lambda *_: {},
)
MISSING = Step(
    name="half", stage=replace(ENGINE, check=_refuse), config=Nothing(), inputs={}, optional=True
)
PRESENT = Step(name="fp32", stage=ENGINE, config=Nothing(), inputs={})


def _reads(stage: Stage[Nothing], **inputs: str) -> Step:
    references = {name: Reference(step=step, output="engine") for name, step in inputs.items()}
    return Step(name="reader", stage=stage, config=Nothing(), inputs=references)


def test_unavailable_step_goes_with_its_inputs_and_their_companions() -> None:
    reader = _reads(
        COMPARE, fp32="fp32", half="half", parity_half="fp32", graph_half="fp32", parity_fp32="fp32"
    )
    kept, skipped = without_unavailable([PRESENT, MISSING, reader])
    assert [step.name for step in kept] == ["fp32", "reader"]
    assert set(kept[-1].inputs) == {"fp32", "parity_fp32"}
    assert skipped == {"half": "no such library"}


def test_available_optional_step_stays() -> None:
    step = replace(PRESENT, optional=True)
    assert without_unavailable([step]) == ((step,), {})


def test_step_that_is_not_optional_stays_for_its_check_to_fail() -> None:
    step = replace(MISSING, optional=False)
    assert without_unavailable([step]) == ((step,), {})


def test_needing_what_was_left_out_is_an_error_with_the_reason() -> None:
    needy = replace(COMPARE, inputs={"engine": takes(ArtifactKind.ENGINE)})
    with pytest.raises(ConfigurationError, match=r"reader.inputs.engine: .*no such library"):
        without_unavailable([MISSING, _reads(needy, engine="half")])


def test_optional_step_that_needs_a_dropped_one_is_dropped_too() -> None:
    needy = replace(ENGINE, inputs={"engine": takes(ArtifactKind.ENGINE)})
    reader = replace(_reads(needy, engine="half"), optional=True)
    kept, skipped = without_unavailable([PRESENT, reader, MISSING])
    assert kept == (PRESENT,)
    assert "no such library" in skipped["reader"]
