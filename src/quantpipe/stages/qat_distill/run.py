"""Quantization-aware fine-tuning of a calibrated network, taught by the float one.

What is trained is what is deployed: calibration has folded BatchNorm into the convolutions, so the
student has none, and a plan's float operations stay float. Its ranges are those that are published
with its weights. The teacher is the float checkpoint; it does not change.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from quantpipe.core.artifact import Artifact
from quantpipe.core.stage import Context, Inputs, Metrics, Outputs
from quantpipe.detector.checkpoint_family import as_deployed, restore_detector
from quantpipe.detector.checkpoint_file import load_checkpoint
from quantpipe.errors import ConfigurationError
from quantpipe.files import write_json
from quantpipe.quantization import model_files
from quantpipe.quantization.model import (
    Model,
    load_model,
    require_classes,
    save_model,
    with_weights,
)
from quantpipe.quantization.shared_ranges import concat_groups
from quantpipe.quantization.simulation.network import quantize_to_train, without_ranges
from quantpipe.quantization.simulation.ranges import Averaged, Fixed, Learned, RangeRule
from quantpipe.quantization.simulation.trained_ranges import scales_after_training
from quantpipe.settings.data import open_split
from quantpipe.settings.model import loss_of
from quantpipe.settings.training import execution, log_folder, recipe
from quantpipe.stages.qat_distill.config import QatDistillConfig
from quantpipe.training.fit import Distillation, TrainingJob, fit
from quantpipe.training.loop import TrainResult


def run(config: QatDistillConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Trains the fake-quantized student and writes its weights and ranges."""
    model = load_model(inputs["model"].path, context.device)
    scales = model.require_scales()
    teacher = _teacher(inputs, context)
    student = _student(config, model)
    result = _fit(config, student, model, teacher, context)

    selected = result.selected(config.select)
    student.load_state_dict(selected.weights)
    network = model.network
    network.load_state_dict(without_ranges(selected.weights))
    trained = with_weights(
        model.checkpoint,
        network,
        provenance=context.provenance(epochs=config.epochs, best_epoch=result.best_epoch or 0),
    )
    trained_scales = scales_after_training(scales, student, weights_digest=trained.weights_digest)
    save_model(outputs["model"], trained, trained_scales, model.plan)
    write_json(outputs["history"], {"qat": result.history})
    return {
        "map": selected.score,
        "epoch": selected.epoch,
        "best_epoch": result.best_epoch,
        "stopped_early": result.stopped_early,
    }


def _teacher(inputs: Inputs, context: Context) -> Path:
    """The checkpoint that teaches: the one wired, or the float one that the model came from."""
    found: Artifact | None = inputs.get("teacher")
    if found is not None:
        return found.path
    found = inputs["model"]
    while found is not None and found.file(model_files.SCALES) is not None:
        found = found.sources.get("model")
    if found is None:
        raise ConfigurationError(
            "the model does not say which float one it came from",
            path=f"{context.step}.inputs.teacher",
            hint="wire one, as teacher: train_repopt",
        )
    return found.path


def _student(config: QatDistillConfig, model: Model) -> nn.Module:
    """The network that is deployed, with its INT8 simulated and its ranges as configured."""
    numbers = config.range_training
    rules: dict[str, RangeRule] = {
        "fixed": Fixed(),
        "learned": Learned(lr_factor=numbers.lr_factor),
        "ema": Averaged(decay=numbers.decay, frozen_fraction=numbers.frozen_fraction),
    }
    device = next(model.network.parameters()).device
    example = torch.zeros(1, 3, *model.checkpoint.input.size, device=device)
    return quantize_to_train(
        model.network,
        model.require_scales(),
        model.plan,
        rule=rules[config.ranges],
        groups=concat_groups(model.network, example),
    )


def _fit(
    config: QatDistillConfig,
    student: nn.Module,
    model: Model,
    teacher: Path,
    context: Context,
) -> TrainResult:
    loss = loss_of(model.checkpoint.family, config.loss, path=f"{context.step}.loss")
    if loss is None:
        raise ConfigurationError(
            f"family {model.checkpoint.family} has no loss to train with",
            path=context.step,
            hint="leave this step out",
        )
    dataset = open_split(config.data, "train", context)
    held_out = open_split(config.data, "val", context)
    require_classes(model.checkpoint, dataset.class_names, model.path)
    require_classes(load_checkpoint(teacher), dataset.class_names, teacher)
    numbers = recipe(config)
    job = TrainingJob(
        detector=student,
        recipe=numbers,
        loss=loss,
        dataset=dataset,
        specification=model.checkpoint.input,
        augmentation=config.augmentation,
        seed=context.seed,
        device=context.device,
        execution=execution(config, context.device),
        masks=None,
        distillation=Distillation(
            teacher=restore_detector(as_deployed(load_checkpoint(teacher))),
            numbers=config.distillation,
        ),
        progress_folder=context.progress_folder,
        description=context.step,
    )
    return fit(
        job,
        held_out=held_out,
        log_folder=log_folder(config, context.step),
        progress=context.progress,
    )
