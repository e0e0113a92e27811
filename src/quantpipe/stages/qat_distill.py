"""Quantization-aware fine-tuning of a calibrated network, taught by the float one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.schema import Between, ExecutionOnly
from quantpipe.core.stage import Context, Inputs, Metrics, Output, Outputs, Stage, may_take, takes
from quantpipe.settings.data import DataSettings, check_data, data_content, open_split
from quantpipe.settings.recipe import (
    AugmentationSettings,
    BatchSize,
    Epochs,
    LogFolder,
    LossSettings,
    NotNegative,
    NumWorkers,
    Patience,
    Positive,
    ScheduleSettings,
    Select,
    augmentation,
    check_log,
    log_folder,
    recipe,
    workers,
)
from quantpipe.settings.trainer import TrainerSettings, check_ranks, with_precision

if TYPE_CHECKING:
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


@dataclass(frozen=True, kw_only=True)
class QatDistillConfig:
    """Settings of the stage; see ``conf/stage/qat_distill.yaml``."""

    trainer: TrainerSettings
    data: DataSettings
    epochs: Epochs
    batch_size: BatchSize
    lr: Positive
    weight_ranges: Literal["fixed", "current"]
    box_loss: Literal["giou", "siou"]
    distillation: DistillationSettings
    schedule: ScheduleSettings
    loss: LossSettings
    augmentation: AugmentationSettings
    validate_every: Annotated[int, Between(1)]
    patience: Patience
    select: Select
    tensorboard: LogFolder
    save_every: Annotated[int, Between(1), ExecutionOnly()]
    num_workers: NumWorkers
    cache_mib: Annotated[int, Between(0), ExecutionOnly()]


def check(config: QatDistillConfig) -> None:
    """Finds missing data and a missing library."""
    check_data(config.data)
    check_log(config.tensorboard)
    check_ranks(config.batch_size, config.trainer)


def content(config: QatDistillConfig, memo: Path) -> Mapping[str, Any]:
    """The images."""
    return {"data": data_content(config.data, ("train", "val"), memo)}


def run(config: QatDistillConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Trains the fake-quantized student and writes its weights and ranges."""
    from quantpipe.assembly.images import provenance
    from quantpipe.assembly.networks import load_inputs, with_weights
    from quantpipe.detector.checkpoint import load_checkpoint, save_checkpoint
    from quantpipe.files import write_json
    from quantpipe.quantization.fake_quantize import quantize
    from quantpipe.quantization.scale_cache import save_scales
    from quantpipe.quantization.trained_ranges import scales_after_training

    loaded = load_inputs(inputs, context.device)
    assert loaded.scales is not None
    teacher = load_checkpoint(inputs["teacher"].path)
    student = quantize(
        loaded.network, loaded.scales, loaded.plan, weight_ranges=config.weight_ranges
    )
    result = _fit(config, student, loaded, teacher, inputs, context)

    selected = result.selected(config.select)
    student.load_state_dict(selected.weights)
    network = loaded.network
    network.load_state_dict(selected.weights)
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


def _fit(
    config: QatDistillConfig,
    student: Any,
    loaded: Loaded,
    teacher: Checkpoint,
    inputs: Inputs,
    context: Context,
) -> TrainResult:
    from quantpipe.assembly.networks import require_classes
    from quantpipe.assembly.training import Distillation, TrainingJob, fit
    from quantpipe.detector.checkpoint import restore_detector

    dataset = open_split(config.data, "train", context)
    held_out = open_split(config.data, "val", context)
    require_classes(loaded.checkpoint, dataset.class_names, inputs["checkpoint"].path)
    require_classes(teacher, dataset.class_names, inputs["teacher"].path)
    numbers = recipe(
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        box_loss=config.box_loss,
        schedule=with_precision(config.schedule, config.trainer),
        loss=config.loss,
    )
    job = TrainingJob(
        detector=student,
        recipe=numbers,
        dataset=dataset,
        image_size=loaded.checkpoint.image_size,
        augmentation=augmentation(config.augmentation),
        seed=context.seed,
        device=context.device,
        num_workers=workers(config.num_workers, context.device),
        cache_mib=config.cache_mib,
        masks=None,
        distillation=Distillation(
            teacher=restore_detector(teacher), settings=vars(config.distillation)
        ),
        validate_every=config.validate_every,
        patience=config.patience,
        save_every=config.save_every,
        progress_folder=context.progress_folder,
        description=context.step,
    )
    return fit(
        job,
        held_out,
        context,
        tensorboard=log_folder(config.tensorboard, context.step),
        num_ranks=config.trainer.devices,
        timeout_seconds=config.trainer.timeout_s,
    )


STAGE = Stage(
    name="qat_distill",
    version=1,
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
