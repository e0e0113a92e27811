from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.core.toy import needy, stage, step

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.pipeline import Pipeline, Reference, Step
from quantpipe.core.stage import Input
from quantpipe.errors import ConfigurationError

LOG = Path("unused")


def fault(*steps: Step) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Pipeline(name="p", steps=steps)
    return str(caught.value)


def test_steps_come_after_what_they_read_and_else_as_listed() -> None:
    steps = (
        step("c", LOG, {"text": "b.text"}),
        step("z", LOG),
        step("b", LOG, {"text": "a.text"}),
        step("a", LOG),
    )
    assert [s.name for s in Pipeline(name="p", steps=steps).steps] == ["z", "a", "b", "c"]


def test_an_unknown_step_is_named_with_the_nearest() -> None:
    line = fault(step("train", LOG), step("b", LOG, {"text": "trian.text"}))
    assert line == "b.inputs.text: there is no step 'trian'; did you mean 'train'?"


def test_an_unknown_output_is_named_with_the_nearest() -> None:
    line = fault(step("a", LOG), step("b", LOG, {"text": "a.txt"}))
    assert line == "b.inputs.text: step a has no output 'txt'; did you mean 'text'?"


def test_an_unknown_input_is_named_with_the_nearest() -> None:
    line = fault(step("a", LOG), step("b", LOG, {"texts": "a.text"}))
    assert line == "b.inputs.texts: stage append has no such input; did you mean 'text'?"


def test_a_wrong_kind_is_named_with_the_right_one() -> None:
    line = fault(step("a", LOG), step("b", LOG, {"text": "a.extra"}))
    assert line == "b.inputs.text: a.extra is a plan, not a history"


def test_a_missing_input_is_named() -> None:
    assert fault(step("b", LOG, stage=needy())) == (
        "b.inputs.plan: stage needy needs it (plan); wire it as <step>.<output>"
    )


def test_a_cycle_is_shown_in_the_direction_of_the_data() -> None:
    line = fault(
        step("a", LOG, {"text": "c.text"}),
        step("b", LOG, {"text": "a.text"}),
        step("c", LOG, {"text": "b.text"}),
    )
    cycle = line.partition("the steps form a cycle: ")[2].partition(";")[0]
    assert cycle in ("a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c")


def test_a_step_that_reads_itself_is_a_cycle() -> None:
    assert "a -> a" in fault(step("a", LOG, {"text": "a.text"}))


def test_a_step_listed_twice_is_refused() -> None:
    assert fault(step("a", LOG), step("a", LOG)) == "pipeline.steps: a is listed twice"


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".", "a..b", "a b", "/a", "a."])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    assert fault(step(name, LOG)).startswith(f"pipeline.steps: {name!r} is no name")


def test_a_stage_of_any_inputs_checks_their_kinds_and_that_there_are_some() -> None:
    greedy = stage(
        name="greedy", inputs={}, any_inputs=Input(kinds=frozenset({ArtifactKind.HISTORY}))
    )
    a = step("a", LOG)
    Pipeline(name="p", steps=(a, step("b", LOG, {"x": "a.text", "y": "a.text"}, stage=greedy)))
    assert fault(a, step("b", LOG, stage=greedy)) == "b.inputs: nothing is wired"
    assert "a.extra is a plan" in fault(a, step("b", LOG, {"x": "a.extra"}, stage=greedy))


def test_a_stage_may_refuse_inputs_that_do_not_fit_together() -> None:
    def refuse(config: object, kinds: Mapping[str, ArtifactKind]) -> None:
        assert kinds == {"text": ArtifactKind.HISTORY}
        raise ConfigurationError("is one too few", path="text")

    alone = stage(check_wiring=refuse)
    line = fault(step("a", LOG), step("b", LOG, {"text": "a.text"}, stage=alone))
    assert line == "b.inputs.text: is one too few"


def test_references_split_at_the_last_dot() -> None:
    assert Reference.parse("export.qat.onnx", "x") == Reference(step="export.qat", output="onnx")


@pytest.mark.parametrize("text", ["a", ".b", "a.", "", None, 3])
def test_what_is_no_reference_is_refused(text: object) -> None:
    with pytest.raises(ConfigurationError, match=r"write <step>\.<output>"):
        Reference.parse(text, "b.inputs.text")
