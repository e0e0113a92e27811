"""Models from their files and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.calibrated_scales import calibrated_scales
from tests.yolov6_numbers import narrowed
from torch import Tensor

from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_file import save_checkpoint
from quantpipe.detector.families.yolov6.architecture import operation_names
from quantpipe.detector.families.yolov6.checkpoint import Description
from quantpipe.detector.families.yolov6.family import input_of
from quantpipe.detector.families.yolov6.network import build_detector, fold_batch_norm
from quantpipe.errors import ArtifactError
from quantpipe.evaluation.network import predict_with
from quantpipe.quantization.model import (
    Model,
    deployed,
    load_model,
    quantized_as,
    require_classes,
    save_model,
    with_weights,
    without_ranges,
)
from quantpipe.quantization.model_files import CHECKPOINT, PLAN, SCALES
from quantpipe.quantization.precision_plan import PrecisionPlan, save_plan
from quantpipe.quantization.scale_cache import ScaleCache, save_scales

TINY = narrowed(depth=0.1, width=0.0625, num_classes=2)
STEM = operation_names(TINY)[0]


def _checkpoint(seed: int) -> Checkpoint:
    network = fold_batch_norm(build_detector(TINY, "repopt", seed=seed).eval())
    return Checkpoint(
        family="yolov6",
        settings=Description(TINY, "deploy").settings(),
        class_names=("disc", "square"),
        input=input_of((32, 32)),
        tensors=network.state_dict(),
        provenance={"step": "test"},
    )


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return _checkpoint(seed=1)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def ranges(
    checkpoint: Checkpoint, pixels: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> ScaleCache:
    path = tmp_path_factory.mktemp("float") / CHECKPOINT
    save_checkpoint(path, checkpoint)
    network = load_model(path, "cpu").network
    return calibrated_scales(network, [pixels], weights_digest=checkpoint.weights_digest)


@pytest.fixture(scope="module")
def plan() -> PrecisionPlan:
    operations = {name: "float" if name == STEM else "int8" for name in operation_names(TINY)}
    return PrecisionPlan(operations=operations, reason="test")


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(torch.equal(one, other))


def test_without_scales_it_is_a_float_model(
    tmp_path: Path, checkpoint: Checkpoint, pixels: Tensor
) -> None:
    save_checkpoint(tmp_path / CHECKPOINT, checkpoint)
    model = load_model(tmp_path / CHECKPOINT, "cpu")
    assert (model.scales, model.plan) == (None, None)
    assert model.quantized is model.network
    assert not model.network.training
    with pytest.raises(ArtifactError, match=r"is a float model without ranges; take one of"):
        model.require_scales()


def test_what_is_saved_is_loaded(
    tmp_path: Path, checkpoint: Checkpoint, ranges: ScaleCache, plan: PrecisionPlan, pixels: Tensor
) -> None:
    save_model(tmp_path / CHECKPOINT, checkpoint, ranges, plan)
    model = load_model(tmp_path / CHECKPOINT, "cpu")
    assert model.path == tmp_path / CHECKPOINT
    assert model.checkpoint.weights_digest == checkpoint.weights_digest
    assert model.require_scales() == ranges
    assert model.plan is not None
    assert model.plan.operations == plan.operations
    assert not _same(predict_with(model.quantized, pixels), predict_with(model.network, pixels))


def test_a_model_loaded_and_saved_again_is_the_same_bytes(
    tmp_path: Path, checkpoint: Checkpoint, ranges: ScaleCache, plan: PrecisionPlan
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    save_model(first / CHECKPOINT, checkpoint, ranges, plan)
    model = load_model(first / CHECKPOINT, "cpu")
    save_model(second / CHECKPOINT, model.checkpoint, model.require_scales(), model.plan)
    for name in (CHECKPOINT, SCALES, PLAN):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_without_a_plan_every_operation_is_quantized_and_no_plan_is_written(
    tmp_path: Path, checkpoint: Checkpoint, ranges: ScaleCache, plan: PrecisionPlan, pixels: Tensor
) -> None:
    save_model(tmp_path / CHECKPOINT, checkpoint, ranges, None)
    assert not (tmp_path / PLAN).exists()
    model = load_model(tmp_path / CHECKPOINT, "cpu")
    assert model.plan is None
    whole = predict_with(model.quantized, pixels)
    partly = predict_with(quantized_as(model, plan), pixels)
    assert not _same(whole, partly)
    save_plan(tmp_path / PLAN, plan)
    assert _same(predict_with(load_model(tmp_path / CHECKPOINT, "cpu").quantized, pixels), partly)


def test_the_float_model_leaves_scales_and_plan_alone(
    tmp_path: Path, checkpoint: Checkpoint, ranges: ScaleCache, plan: PrecisionPlan
) -> None:
    save_model(tmp_path / CHECKPOINT, checkpoint, ranges, plan)
    (tmp_path / SCALES).write_text("damaged")
    model = load_model(tmp_path / CHECKPOINT, "cpu", quantized=False)
    assert (model.scales, model.plan) == (None, None)
    assert model.quantized is model.network
    with pytest.raises(ArtifactError, match=r"scales\.json"):
        load_model(tmp_path / CHECKPOINT, "cpu")


def test_a_model_is_made_float(
    tmp_path: Path, checkpoint: Checkpoint, ranges: ScaleCache, plan: PrecisionPlan
) -> None:
    save_model(tmp_path / CHECKPOINT, checkpoint, ranges, plan)
    model = without_ranges(load_model(tmp_path / CHECKPOINT, "cpu"))
    assert (model.scales, model.plan) == (None, None)
    assert model.quantized is model.network


def test_scales_of_other_weights_are_refused_with_the_file(
    tmp_path: Path, ranges: ScaleCache
) -> None:
    save_checkpoint(tmp_path / CHECKPOINT, _checkpoint(seed=2))
    save_scales(tmp_path / SCALES, ranges)
    with pytest.raises(ArtifactError, match=rf"{SCALES}.*{ranges.weights_digest}"):
        load_model(tmp_path / CHECKPOINT, "cpu")


def test_a_plan_of_other_operations_is_refused_with_the_file(
    tmp_path: Path, checkpoint: Checkpoint, ranges: ScaleCache
) -> None:
    other = PrecisionPlan(operations={"elsewhere": "int8"}, reason="test")
    save_model(tmp_path / CHECKPOINT, checkpoint, ranges, other)
    with pytest.raises(ArtifactError, match=r"plan\.json.*elsewhere"):
        load_model(tmp_path / CHECKPOINT, "cpu")


def test_the_deployed_form_folds_batch_norm_once(
    tmp_path: Path, checkpoint: Checkpoint, pixels: Tensor
) -> None:
    network = build_detector(TINY, "repopt", seed=1).eval()
    trained = with_weights(
        replace(checkpoint, settings=Description(TINY, "repopt").settings()), network
    )
    save_checkpoint(tmp_path / CHECKPOINT, trained)
    model = load_model(tmp_path / CHECKPOINT, "cpu")
    folded = deployed(model)
    assert folded.quantized is folded.network is not model.network
    assert len(folded.network.state_dict()) < len(model.network.state_dict())
    torch.testing.assert_close(
        predict_with(folded.network, pixels), predict_with(model.network, pixels)
    )
    assert deployed(_as_saved(tmp_path, checkpoint)).checkpoint.settings["form"] == "deploy"


def _as_saved(folder: Path, checkpoint: Checkpoint) -> Model:
    save_checkpoint(folder / CHECKPOINT, checkpoint)
    return load_model(folder / CHECKPOINT, "cpu")


def test_a_model_in_its_deployed_form_stays_itself(tmp_path: Path, checkpoint: Checkpoint) -> None:
    model = _as_saved(tmp_path, checkpoint)
    assert deployed(model) is model


def test_a_checkpoint_takes_the_weights_of_a_network(checkpoint: Checkpoint) -> None:
    network = fold_batch_norm(build_detector(TINY, "repopt", seed=3).eval())
    changed = with_weights(checkpoint, network, provenance={"step": "other"})
    assert changed.weights_digest == _checkpoint(seed=3).weights_digest
    assert changed.provenance == {"step": "other"}
    assert changed.class_names == checkpoint.class_names


def test_a_checkpoint_of_other_classes_is_refused_with_both(checkpoint: Checkpoint) -> None:
    require_classes(checkpoint, ["disc", "square"], Path("x"))
    with pytest.raises(ArtifactError, match=r"knows the classes disc, square, the data set cat"):
        require_classes(checkpoint, ["cat"], Path("x"))
