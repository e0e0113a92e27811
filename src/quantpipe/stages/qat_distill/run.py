"""Quantization-aware fine-tuning of a calibrated network, taught by the float one.

What is trained is what is deployed: calibration has folded BatchNorm into the convolutions, so the
student has none, and a plan's float operations stay float. Its ranges are those that are published
with its weights. The teacher is the float checkpoint; it does not change.
"""

from __future__ import annotations

import torch
from torch import nn

from quantpipe.assembly.networks import Loaded, load_inputs, require_classes, with_weights
from quantpipe.core.stage import Context, Inputs, Metrics, Outputs
from quantpipe.detector.checkpoint import (
    Checkpoint,
    load_checkpoint,
    restore_detector,
    save_checkpoint,
)
from quantpipe.detector.families.yolov6.network import fold_batch_norm
from quantpipe.files import write_json
from quantpipe.quantization.scale_cache import save_scales
from quantpipe.quantization.shared_ranges import concat_groups
from quantpipe.quantization.simulation.network import quantize_to_train, without_ranges
from quantpipe.quantization.simulation.ranges import Averaged, Fixed, Learned, RangeRule
from quantpipe.quantization.simulation.trained_ranges import scales_after_training
from quantpipe.settings.data import open_split
from quantpipe.settings.training import execution, log_folder, recipe
from quantpipe.stages.qat_distill.config import (
    QatDistillConfig,
)
from quantpipe.training.fit import Distillation, TrainingJob, fit
from quantpipe.training.loop import TrainResult


def run(config: QatDistillConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Trains the fake-quantized student and writes its weights and ranges."""
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
        provenance=context.provenance(epochs=config.epochs, best_epoch=result.best_epoch or 0),
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

    dataset = open_split(config.data, "train", context)
    held_out = open_split(config.data, "val", context)
    require_classes(loaded.checkpoint, dataset.class_names, inputs["checkpoint"].path)
    require_classes(teacher, dataset.class_names, inputs["teacher"].path)
    job = TrainingJob(
        detector=student,
        recipe=recipe(config, config.box_loss),
        dataset=dataset,
        image_size=loaded.checkpoint.image_size,
        augmentation=config.augmentation,
        seed=context.seed,
        device=context.device,
        execution=execution(config, context.device),
        masks=None,
        distillation=Distillation(
            teacher=fold_batch_norm(restore_detector(teacher)), settings=vars(config.distillation)
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
