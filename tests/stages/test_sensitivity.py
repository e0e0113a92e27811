from __future__ import annotations

from pathlib import Path

import pytest
from tests.stages.conftest import Artifacts, Configure, RunStage

from quantpipe.core.artifact import Artifact
from quantpipe.core.stage import Context
from quantpipe.detector.architecture import operation_names
from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.errors import ArtifactError
from quantpipe.quantization.sensitivity_table import load_table
from quantpipe.stages.sensitivity import STAGE


@pytest.mark.parametrize("method", ["gradient", pytest.param("output", marks=pytest.mark.slow)])
def test_every_operation_is_ranked_by_its_damage(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    trained: Checkpoint,
    method: str,
) -> None:
    config = configured("sensitivity", f"sensitivity.method={method}")
    made = run_stage("sensitivity", config, **calibrated)
    assert set(made) == {"table"}  # the published text holds mAP, which was not measured
    table = load_table(made["table"].path)
    assert {row.name for row in table.rows} == set(operation_names(trained.architecture))
    scores = [row.score for row in table.rows]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0] >= 0


def test_scales_of_other_weights_are_refused(
    configured: Configure, run_stage: RunStage, calibrated: Artifacts, checkpoint: Artifact
) -> None:
    config = configured("sensitivity", "sensitivity.method=output")
    with pytest.raises(ArtifactError):
        run_stage("sensitivity", config, checkpoint=checkpoint, scales=calibrated["scales"])


@pytest.mark.slow
def test_the_map_of_every_operation_is_measured_and_published_as_text(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    trained: Checkpoint,
    context: Context,
) -> None:
    config = configured("sensitivity", "sensitivity.method=map", "sensitivity.num_images=1")
    made = run_stage("sensitivity", config, **calibrated)
    num_operations = len(operation_names(trained.architecture))
    assert len(load_table(made["table"].path).rows) == num_operations
    lines = [line.split() for line in made["text"].path.read_text().splitlines()]
    assert len(lines) >= num_operations
    assert all(len(line) == 3 for line in lines)


def test_the_content_is_the_images_of_the_split(configured: Configure, tmp_path: Path) -> None:
    assert set(STAGE.content(configured("sensitivity"), tmp_path)) == {"data"}
