"""An optional step that fails is skipped with its reason, and only what needs it goes with it."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from tests.core.toy import TEXT, Notes, TextConfig, append, executions, runner, stage, step

from quantpipe.core.pipeline import Pipeline, Step
from quantpipe.core.runner import StepRecord, run_pipeline
from quantpipe.core.signals import StopRequest
from quantpipe.core.stage import Context, Input, Inputs, Metrics, Outputs
from quantpipe.errors import Interrupted, MachineError

BROKEN = MachineError("has no such kernels", path="OpenVINO")
REASON = "b: OpenVINO: has no such kernels"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def optional(made: Step) -> Step:
    return replace(made, optional=True)


def failing(name: str, log: Path, error: Exception, inputs: dict[str, str] | None = None) -> Step:
    def run(config: TextConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
        outputs["text"].write_text("half")
        raise error

    return step(name, log, inputs, stage=stage(run))


def comparing(log: Path, *compared: str) -> Step:
    takes_all = stage(name="greedy", inputs={"all": Input(kinds=frozenset({TEXT}), many=True)})
    return step("c", log, {f"all.{name}": name for name in compared}, stage=takes_all)


def ran(folder: Path, *steps: Step, notes: Notes | None = None) -> dict[str, StepRecord]:
    records = run_pipeline(Pipeline(name="p", steps=steps), runner(folder, notes))
    return {record.step: record for record in records}


def test_it_is_skipped_with_its_reason_and_the_rest_goes_on(tmp_path: Path, log: Path) -> None:
    notes = Notes()
    b = optional(failing("b", log, BROKEN))
    records = ran(tmp_path, step("a", log), b, comparing(log, "a", "b"), notes=notes)
    assert records["b"].skipped == REASON
    assert records["b"].artifacts == {}
    assert records["c"].artifacts["text"].path.read_text() == "ac"
    assert f"[2/3] b: skipped: {REASON}" in notes.lines
    assert list(json.loads((tmp_path / "run/manifest.json").read_text())["steps"]) == ["a", "c"]
    assert not (tmp_path / "run" / "b").exists()
    assert not list((tmp_path / "cache" / "staging").iterdir())


def test_what_is_optional_behind_it_is_skipped_for_the_same_reason(
    tmp_path: Path, log: Path
) -> None:
    b = optional(failing("b", log, BROKEN))
    after = optional(step("after", log, {"text": "b.text"}))
    records = ran(tmp_path, step("a", log), b, after, comparing(log, "a", "after"))
    assert records["after"].skipped == REASON
    assert executions(log) == ["a", "c"]


def test_a_fault_that_no_error_of_ours_tells_is_a_reason_too(tmp_path: Path, log: Path) -> None:
    b = optional(failing("b", log, RuntimeError("could not create\n a primitive")))
    assert ran(tmp_path, b)["b"].skipped == "b: RuntimeError: could not create a primitive"


def test_a_step_that_is_not_optional_needs_what_was_skipped(tmp_path: Path, log: Path) -> None:
    b = optional(failing("b", log, BROKEN))
    with pytest.raises(MachineError, match=f"^d: what it works with could not be made: {REASON}"):
        ran(tmp_path, b, step("d", log, {"text": "b.text"}))
    assert executions(log) == []


def test_a_comparison_of_nothing_fails(tmp_path: Path, log: Path) -> None:
    b = optional(failing("b", log, BROKEN))
    with pytest.raises(MachineError, match=f"^c: what it works with could not be made: {REASON}"):
        ran(tmp_path, b, comparing(log, "b"))


def test_it_is_tried_again_by_the_next_run(tmp_path: Path, log: Path) -> None:
    ran(tmp_path, step("a", log), optional(failing("b", log, BROKEN)), comparing(log, "a", "b"))
    mended = optional(step("b", log))
    records = ran(tmp_path, step("a", log), mended, comparing(log, "a", "b"))
    assert records["b"].skipped is None
    assert records["c"].artifacts["text"].path.read_text() == "abc"
    assert executions(log) == ["a", "c", "b", "c"]


def test_a_signal_skips_nothing(tmp_path: Path, log: Path) -> None:
    stop = StopRequest()

    def stopping(config: TextConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
        stop.handle(signal.SIGINT, None)
        raise Interrupted(signal.SIGTERM)

    steps = (optional(step("b", log, stage=stage(stopping))), step("a", log, stage=stage(append)))
    with pytest.raises(Interrupted) as caught:
        run_pipeline(Pipeline(name="p", steps=steps), runner(tmp_path, stop=stop))
    assert caught.value.exit_code == 130
    assert executions(log) == []
