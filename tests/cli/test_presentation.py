"""What a run leaves to look at says of every variant what became of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from quantpipe.cli.composition import config_folder
from quantpipe.cli.config import CheckedRun, read_run
from quantpipe.cli.presentation import present
from quantpipe.core.runner import StepRecord
from quantpipe.progress import Silent


@pytest.fixture
def run() -> CheckedRun:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return read_run(compose("config", overrides=["pipelines=ptq", "device=cpu"]), ())


def record(step: str, skipped: str | None) -> StepRecord:
    return StepRecord(
        step=step,
        stage=step.partition(".")[0],
        key="" if skipped else "0" * 64,
        seconds=1.0,
        spent=1.0,
        reused=False,
        artifacts={},
        metrics={},
        skipped=skipped,
    )


def test_a_variant_whose_step_was_skipped_is_in_the_table_with_the_reason(
    run: CheckedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "build_engine.half: OpenVINO: no such kernels"
    assert run.variants["half"].step == "build_engine.half"
    records = [
        record(step.name, reason if step.name == "build_engine.half" else None)
        for step in run.pipeline.steps
    ]
    present(run, records, tmp_path, datetime.now(UTC), 1.0, Silent())
    (half,) = json.loads((tmp_path / "summary.json").read_text())["variants"]
    assert (half["name"], half["precision"], half["skipped"]) == ("half", "half", reason)
    assert f"half on openvino was skipped: {reason}" in capsys.readouterr().out
    assert reason in (tmp_path / "report.html").read_text()
