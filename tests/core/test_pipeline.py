from __future__ import annotations

from pathlib import Path

import pytest
from tests.core.toy import REMARK, TEXT, TextConfig, needy, stage, step

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.pipeline import Pipeline, Reference, Step
from quantpipe.core.stage import Input, Output, Stage, may_take, takes
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
    assert line == "b.inputs.text: a.extra is a remark, not a text"


def test_a_missing_input_is_named() -> None:
    assert fault(step("b", LOG, stage=needy())) == (
        "b.inputs.remark: stage needy needs it (remark); write <step> or <step>.<output>"
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


def test_a_kind_is_known_by_its_files_and_not_by_its_name_alone() -> None:
    namesake = ArtifactKind(name="text", files=("other.txt",))
    other = stage(name="other", inputs={"text": may_take(namesake)})
    line = fault(step("a", LOG), step("b", LOG, {"text": "a.text"}, stage=other))
    assert line == "b.inputs.text: a.text is a text, not a text"


def test_a_step_without_an_output_means_the_one_that_fits() -> None:
    steps = (
        step("a", LOG),
        step("b", LOG, {"text": "a"}),
        step("c", LOG, {"remark": "a"}, stage=needy()),
    )
    _, b, c = Pipeline(name="p", steps=steps).steps
    assert b.inputs == {"text": Reference(step="a", output="text")}
    assert c.inputs == {"remark": Reference(step="a", output="extra")}


def test_a_step_that_makes_nothing_that_fits_is_refused_with_what_it_makes() -> None:
    mute = stage(name="mute", outputs={"text": Output(kind=TEXT), "more": Output(kind=TEXT)})
    line = fault(step("a", LOG, stage=mute), step("b", LOG, {"remark": "a"}, stage=needy()))
    assert line == "b.inputs.remark: step a makes no remark; it makes text, more"


def test_of_several_that_fit_one_must_be_named() -> None:
    twice = stage(name="twice", outputs={"text": Output(kind=TEXT), "more": Output(kind=TEXT)})
    line = fault(step("a", LOG, stage=twice), step("b", LOG, {"text": "a"}))
    assert line == "b.inputs.text: step a makes more than one text; write a.text or a.more"


def test_an_input_of_two_kinds_takes_either_and_names_both() -> None:
    either = stage(name="either", inputs={"any": takes(TEXT, REMARK)})
    for output in ("text", "extra"):
        Pipeline(
            name="p",
            steps=(step("a", LOG), step("b", LOG, {"any": f"a.{output}"}, stage=either)),
        )
    assert fault(step("b", LOG, stage=either)).startswith(
        "b.inputs.any: stage either needs it (remark or text)"
    )


def greedy() -> Stage[TextConfig]:
    """A stage that takes a text of every variant."""
    return stage(name="greedy", inputs={"all": Input(kinds=frozenset({TEXT}), many=True)})


def test_an_input_for_every_variant_is_wired_once_for_each() -> None:
    steps = (step("a", LOG), step("b", LOG, {"all.x": "a", "all.y": "a.text"}, stage=greedy()))
    _, b = Pipeline(name="p", steps=steps).steps
    assert {name: str(reference) for name, reference in b.inputs.items()} == {
        "all.x": "a.text",
        "all.y": "a.text",
    }


def test_an_input_for_every_variant_checks_their_kinds_and_that_there_are_some() -> None:
    a = step("a", LOG)
    line = fault(a, step("b", LOG, {"all.x": "a.extra"}, stage=greedy()))
    assert line == "b.inputs.all.x: a.extra is a remark, not a text"
    assert fault(a, step("b", LOG, stage=greedy())) == (
        "b.inputs.all: stage greedy needs it (text); list one under variants:"
    )


@pytest.mark.parametrize("name", ["all", "every.x"])
def test_an_input_for_every_variant_has_no_other_names(name: str) -> None:
    line = fault(step("a", LOG), step("b", LOG, {name: "a.text"}, stage=greedy()))
    assert line.startswith(f"b.inputs.{name}: stage greedy has no such input")


def test_an_input_for_one_has_no_variants() -> None:
    line = fault(step("a", LOG), step("b", LOG, {"text.x": "a.text"}))
    assert line.startswith("b.inputs.text.x: stage append has no such input")


def test_references_split_at_the_last_dot() -> None:
    found = Reference.parse("export.qat.graph", "x", {"export.qat", "export"})
    assert found == Reference(step="export.qat", output="graph")


def test_a_name_of_a_step_is_never_split() -> None:
    found = Reference.parse("export.qat", "x", {"export.qat", "export"})
    assert found == Reference(step="export.qat", output=None)
    assert str(found) == "export.qat"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("trian", "x: there is no step 'trian'; did you mean 'train'?"),
        ("trian.text", "x: there is no step 'trian'; did you mean 'train'?"),
        ("export.qa", "x: there is no step 'export.qa'; did you mean 'export.qat'?"),
    ],
)
def test_a_reference_to_no_step_is_refused_with_the_nearest(text: str, line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Reference.parse(text, "x", {"train", "export.qat"})
    assert str(caught.value) == line


@pytest.mark.parametrize("text", [".b", "a.", "", "a b", None, 3])
def test_what_is_no_reference_is_refused(text: object) -> None:
    with pytest.raises(ConfigurationError, match=r"write <step> or <step>\.<output>"):
        Reference.parse(text, "b.inputs.text", {"a"})
