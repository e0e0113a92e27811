"""Quantization-aware fine-tuning of a calibrated network, taught by the float one.

What is trained is what is deployed: calibration has folded BatchNorm into the convolutions, so the
student has none, and a plan's float operations stay float. Its ranges are those that are published
with its weights. The teacher is the float checkpoint; it does not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.stage import Context, Inputs, Metrics, Output, Outputs, Stage, may_take, takes
from quantpipe.settings.data import data_content, open_split
from quantpipe.settings.recipe import Fraction, NotNegative, Positive
from quantpipe.settings.training import TrainingSettings, check_training

if TYPE_CHECKING:
    from torch import nn

    from quantpipe.assembly.networks import Loaded
    from quantpipe.detector.checkpoint import Checkpoint
    from quantpipe.training.loop import TrainResult


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """Weights and temperatures; all weights fall with the epochs by a half cosine."""

    class_weight: NotNegative
    class_temperature: Positive
    feature_weight: NotNegative
    feature_temperature: Positive
    mixed_precision_teacher: bool


@dataclass(frozen=True, kw_only=True)
class RangeSettings:
    """What learned (``lr_factor``) and averaged ranges (the others) are told.

    See :class:`quantpipe.quantization.ranges.Learned` and ``Averaged``.
    """

    lr_factor: Positive
    decay: Fraction
    frozen_fraction: Fraction


@dataclass(frozen=True, kw_only=True)
class QatDistillConfig(TrainingSettings):
    """Settings of the stage; see ``conf/stage/qat_distill.yaml``."""

    ranges: Literal["fixed", "learned", "ema"]
    range_training: RangeSettings
    box_loss: Literal["giou", "siou"]
    distillation: DistillationSettings


def check(config: QatDistillConfig) -> None:
    """Finds missing data, a missing library, and a batch that cannot be shared."""
    check_training(config)


def content(config: QatDistillConfig, memo: Path) -> Mapping[str, Any]:
    """The images."""
    return {"data": data_content(config.data, ("train", "val"), memo)}


def run(config: QatDistillConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Trains the fake-quantized student and writes its weights and ranges."""
    from quantpipe.assembly.images import provenance
    from quantpipe.assembly.networks import load_inputs, with_weights
    from quantpipe.detector.checkpoint import load_checkpoint, save_checkpoint
    from quantpipe.files import write_json
    from quantpipe.quantization.fake_quantize import without_ranges
    from quantpipe.quantization.scale_cache import save_scales
    from quantpipe.quantization.trained_ranges import scales_after_training

    loaded = load_inputs(inputs, context.device)
    assert loaded.scales is not None
    teacher = load_checkpoint(inputs["teacher"].path)
    student = _student(config, loaded)
    result = _fit(config, student, loaded, teacher, inputs, context)

    selected = result.selected(config.select)
    student.load_state_dict(selected.weights)
    network = loaded.network
    network.load_state_dict(without_ranges(selected.weights))
    trained = with_weights(
        loaded.checkpoint,
        network,
        provenance=provenance(context, epochs=config.epochs, best_epoch=result.best_epoch or 0),
    )
    save_checkpoint(outputs["checkpoint"], trained)
    scales = scales_after_training(loaded.scales, student, weights_digest=trained.weights_digest)
    save_scales(outputs["scales"], scales)
    write_json(outputs["history"], {"qat": result.history})
    return {
        "map": selected.score,
        "epoch": selected.epoch,
        "best_epoch": result.best_epoch,
        "stopped_early": result.stopped_early,
    }


def _student(config: QatDistillConfig, loaded: Loaded) -> nn.Module:
    """The network that is deployed, with its INT8 simulated and its ranges as configured."""
    import torch

    from quantpipe.quantization.fake_quantize import quantize_to_train
    from quantpipe.quantization.graph import concat_groups
    from quantpipe.quantization.ranges import Averaged, Fixed, Learned, RangeRule

    assert loaded.scales is not None
    numbers = config.range_training
    rules: dict[str, RangeRule] = {
        "fixed": Fixed(),
        "learned": Learned(lr_factor=numbers.lr_factor),
        "ema": Averaged(decay=numbers.decay, frozen_fraction=numbers.frozen_fraction),
    }
    size = loaded.checkpoint.image_size
    example = torch.zeros(1, 3, size, size, device=next(loaded.network.parameters()).device)
    return quantize_to_train(
        loaded.network,
        loaded.scales,
        loaded.plan,
        rule=rules[config.ranges],
        groups=concat_groups(loaded.network, example),
    )


def _fit(
    config: QatDistillConfig,
    student: nn.Module,
    loaded: Loaded,
    teacher: Checkpoint,
    inputs: Inputs,
    context: Context,
) -> TrainResult:
    from quantpipe.assembly.networks import require_classes
    from quantpipe.assembly.training import Distillation, fit
    from quantpipe.detector.checkpoint import restore_detector
    from quantpipe.detector.network import fold_batch_norm

    dataset = open_split(config.data, "train", context)
    held_out = open_split(config.data, "val", context)
    require_classes(loaded.checkpoint, dataset.class_names, inputs["checkpoint"].path)
    require_classes(teacher, dataset.class_names, inputs["teacher"].path)
    return fit(
        config,
        student,
        dataset,
        held_out,
        context,
        image_size=loaded.checkpoint.image_size,
        box_loss=config.box_loss,
        distillation=Distillation(
            teacher=fold_batch_norm(restore_detector(teacher)), settings=vars(config.distillation)
        ),
    )


STAGE = Stage(
    name="qat_distill",
    version=2,
    config_type=QatDistillConfig,
    inputs={
        "checkpoint": takes(ArtifactKind.CHECKPOINT),
        "scales": takes(ArtifactKind.SCALES),
        "plan": may_take(ArtifactKind.PLAN),
        "teacher": takes(ArtifactKind.CHECKPOINT),
    },
    outputs={
        "checkpoint": Output(kind=ArtifactKind.CHECKPOINT, file="checkpoint.safetensors"),
        "scales": Output(kind=ArtifactKind.SCALES, file="scales.json"),
        "history": Output(kind=ArtifactKind.HISTORY, file="history.json"),
    },
    run=run,
    check=check,
    content=content,
)
