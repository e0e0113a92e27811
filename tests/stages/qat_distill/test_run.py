from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.precision_plans import all_int8
from tests.stages.conftest import Artifacts, Configure, RunStage, artifact_at
from torch import nn

from quantpipe.core.artifact import Artifact
from quantpipe.core.stage import Context
from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_family import restore_detector
from quantpipe.detector.checkpoint_file import load_checkpoint, save_checkpoint
from quantpipe.errors import ArtifactError, ConfigurationError
from quantpipe.identity import identity
from quantpipe.quantization.model import load_model, save_model
from quantpipe.quantization.model_files import CHECKPOINT, PLAN, SCALES
from quantpipe.quantization.precision_plan import load_plan
from quantpipe.quantization.scale_cache import load_scales
from quantpipe.quantization.shared_ranges import concat_groups
from quantpipe.quantization.simulation.network import quantized_operations
from quantpipe.stages.artifacts import MODEL
from quantpipe.stages.qat_distill import STAGE
from quantpipe.stages.qat_distill.run import _student, _teacher
from quantpipe.training.sync_batch_norm import SyncBatchNorm

SHORT = ("qat_distill.epochs=1", "qat_distill.batch_size=4", "qat_distill.lr=0.0001")


@pytest.mark.parametrize("ranges", ["fixed", "learned", "ema"])
def test_a_short_fine_tuning_moves_the_weights_and_publishes_their_ranges(
    ranges: str,
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    float_model: Artifact,
) -> None:
    config = configured("qat_distill", *SHORT, f"qat_distill.ranges={ranges}")
    made = run_stage("qat_distill", config, **calibrated, teacher=float_model)
    before = load_checkpoint(calibrated["model"].path)
    after = load_checkpoint(made["model"].path)
    assert after.settings["form"] == "deploy"
    assert after.tensors.keys() == before.tensors.keys()
    moved = sum(not torch.equal(after.tensors[n], t) for n, t in before.tensors.items())
    assert moved > len(before.tensors) / 2
    (epoch,) = json.loads(made["history"].path.read_text())["qat"]
    assert epoch
    calibration, scales = (load_scales(a["model"].folder / SCALES) for a in (calibrated, made))
    assert scales.weights_digest == after.weights_digest != before.weights_digest
    assert list(scales.scales) == list(calibration.scales)
    changed = {n for n, scale in scales.scales.items() if scale != calibration.scales[n]}
    everything, inputs = set(scales.scales), {f"{name}.input" for name in scales.operations()}
    assert changed >= {"fixed": set(), "learned": everything, "ema": inputs}[ranges]
    assert ranges != "fixed" or not changed
    network = restore_detector(after)
    for group in concat_groups(network, torch.zeros(1, 3, 64, 64)):
        assert len({scales.scales[f"{name}.input"].amax for name in group}) == 1
    if ranges == "ema":
        weight = network.get_parameter("backbone.stem.conv.weight").detach()
        assert scales.scales["backbone.stem.conv.weight"].amax == tuple(
            weight.abs().amax((1, 2, 3)).tolist()
        )


def test_the_student_is_the_network_that_is_deployed(
    configured: Configure, calibrated: Artifacts, float_model: Artifact
) -> None:
    """BatchNorm is folded into the convolutions before a range is made, and stays so."""
    kinds = (nn.BatchNorm2d, SyncBatchNorm)
    trained = restore_detector(load_checkpoint(float_model.path))
    assert any(isinstance(module, kinds) for module in trained.modules())
    loaded = load_model(calibrated["model"].path, "cpu")
    student = _student(configured("qat_distill"), loaded)
    assert loaded.checkpoint.settings["form"] == "deploy"
    assert not any(isinstance(module, kinds) for module in student.modules())
    assert len(quantized_operations(student)) == len(loaded.scales.operations())  # type: ignore[union-attr]


def test_a_network_with_batch_norm_has_no_ranges_to_train_with(
    configured: Configure,
    run_stage: RunStage,
    float_model: Artifact,
    misfit: Artifact,
) -> None:
    wired = {"model": misfit, "teacher": float_model}
    with pytest.raises(ArtifactError, match="these scales belong to weights"):
        run_stage("qat_distill", configured("qat_distill", *SHORT), **wired)


def test_a_float_model_is_refused(
    configured: Configure, run_stage: RunStage, float_model: Artifact
) -> None:
    with pytest.raises(ArtifactError, match="is a float model without ranges; take one of calib"):
        run_stage("qat_distill", configured("qat_distill"), model=float_model)


def test_the_teacher_is_the_float_model_that_was_calibrated(
    calibrated: Artifacts, float_model: Artifact, context: Context, tmp_path: Path
) -> None:
    """Through every quantized model between them; without one, the way to wire it is told."""
    tuned = artifact_at(calibrated["model"].folder, MODEL, calibrated)
    assert _teacher({"model": calibrated["model"]}, context) == float_model.path
    assert _teacher({"model": tuned}, context) == float_model.path
    assert _teacher({"model": tuned, "teacher": tuned}, context) == tuned.path
    orphan = artifact_at(calibrated["model"].folder, MODEL)
    with pytest.raises(ConfigurationError, match=r"step.inputs.teacher: wire one|teacher"):
        _teacher({"model": orphan}, context)


def test_a_plans_float_operations_stay_float(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    float_model: Artifact,
    tmp_path: Path,
) -> None:
    calibration = load_scales(calibrated["model"].folder / SCALES)
    plan = all_int8(calibration.operations(), keep_float=["detect"])
    before = load_checkpoint(calibrated["model"].path)
    save_model(tmp_path / CHECKPOINT, before, calibration, plan)
    wired = {"model": artifact_at(tmp_path, MODEL), "teacher": float_model}
    config = configured("qat_distill", *SHORT, "qat_distill.ranges=learned")

    student = _student(config, load_model(wired["model"].path, "cpu"))
    assert set(quantized_operations(student)) == set(plan.quantized)
    assert type(student.get_submodule("detect.stems.0.block.conv")) is nn.Conv2d

    made = run_stage("qat_distill", config, **wired)
    after, scales = load_checkpoint(made["model"].path), load_scales(made["model"].folder / SCALES)
    assert load_plan(made["model"].folder / PLAN).operations == plan.operations
    for name, scale in scales.scales.items():
        stays = plan.operations[scale.operation] == "float"
        assert (scale == calibration.scales[name]) == stays, name
    # Float operations learn too.
    name = "detect.cls_preds.0.weight"
    assert not torch.equal(after.tensors[name], before.tensors[name])


def test_a_teacher_of_other_classes_is_refused(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    trained: Checkpoint,
    tmp_path: Path,
) -> None:
    save_checkpoint(tmp_path / CHECKPOINT, replace(trained, class_names=("cat", "dog")))
    teacher = artifact_at(tmp_path, MODEL)
    with pytest.raises(ArtifactError, match="cat, dog"):
        run_stage("qat_distill", configured("qat_distill"), **calibrated, teacher=teacher)


def test_the_number_of_workers_changes_no_result(configured: Configure) -> None:
    config = configured("qat_distill")
    assert identity(replace(config, num_workers=8)) == identity(config)
    assert identity(replace(config, lr=0.3)) != identity(config)


def test_the_content_is_the_images(configured: Configure, tmp_path: Path) -> None:
    assert set(STAGE.content(configured("qat_distill"), tmp_path)) == {"data"}
