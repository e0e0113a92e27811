from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.stages.conftest import Artifacts, Configure, RunStage

from quantpipe.core.artifact import Artifact
from quantpipe.core.schema import identity
from quantpipe.detector.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from quantpipe.errors import ArtifactError
from quantpipe.quantization.scale_cache import load_scales
from quantpipe.stages.qat_distill import STAGE


def test_a_short_fine_tuning_moves_the_weights_and_signs_the_scales(
    configured: Configure, run_stage: RunStage, calibrated: Artifacts, checkpoint: Artifact
) -> None:
    config = configured("qat_distill", "qat_distill.epochs=1", "qat_distill.batch_size=4")
    config = replace(config, schedule=replace(config.schedule, no_augmentation_epochs=0))
    made = run_stage("qat_distill", config, **calibrated, teacher=checkpoint)
    before = load_checkpoint(calibrated["checkpoint"].path)
    after = load_checkpoint(made["checkpoint"].path)
    assert after.form == "deploy"
    assert after.tensors.keys() == before.tensors.keys()
    moved = sum(not torch.equal(after.tensors[n], t) for n, t in before.tensors.items())
    assert moved > len(before.tensors) / 2
    scales = load_scales(made["scales"].path)
    assert scales.weights_digest == after.weights_digest != before.weights_digest
    (epoch,) = json.loads(made["history"].path.read_text())["qat"]
    assert epoch


def test_a_teacher_of_other_classes_is_refused(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    trained: Checkpoint,
    tmp_path: Path,
) -> None:
    path = tmp_path / "teacher.safetensors"
    save_checkpoint(path, replace(trained, class_names=("cat", "dog")))
    teacher = Artifact(kind=STAGE.outputs["checkpoint"].kind, path=path, sha256="")
    with pytest.raises(ArtifactError, match="cat, dog"):
        run_stage("qat_distill", configured("qat_distill"), **calibrated, teacher=teacher)


def test_the_number_of_workers_changes_no_result(configured: Configure) -> None:
    config = configured("qat_distill")
    assert identity(replace(config, num_workers=8)) == identity(config)
    assert identity(replace(config, lr=0.3)) != identity(config)


def test_the_content_is_the_images(configured: Configure, tmp_path: Path) -> None:
    assert set(STAGE.content(configured("qat_distill"), tmp_path)) == {"data"}
