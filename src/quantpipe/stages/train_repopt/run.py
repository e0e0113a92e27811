"""Hyper-search of RepOptimizer's scales, then the RepOptimizer training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantpipe.core.stage import Context, Inputs, Metrics, Outputs
from quantpipe.data.dataset import DetectionDataset
from quantpipe.detector.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.detector.families.yolov6.network import Detector, build_detector
from quantpipe.detector.families.yolov6.rep_optimizer import (
    Scales,
    extract_scales,
    gradient_masks,
    initialize_from_scales,
    load_scales,
    released_scales,
    save_scales,
)
from quantpipe.detector.released.archive import is_archive
from quantpipe.detector.released.checkpoint import read_released_checkpoint, write_state_dict
from quantpipe.errors import ArtifactError
from quantpipe.files import write_json
from quantpipe.quantization.model import require_classes
from quantpipe.settings.data import open_split
from quantpipe.settings.model import architecture
from quantpipe.settings.training import execution, log_folder, recipe
from quantpipe.stages.train_repopt.config import TrainRepoptConfig
from quantpipe.training.fit import TrainingJob, fit
from quantpipe.training.loop import TrainResult
from quantpipe.training.recipe import Recipe


def run(config: TrainRepoptConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:  # noqa: ARG001
    """Trains, or takes the checkpoint it is given."""
    if config.checkpoint is not None:
        metrics = _take(config, config.checkpoint, outputs, context)
    else:
        metrics = _train(config, outputs, context)
    if config.write_state_dict:
        write_state_dict(outputs["state_dict"], load_checkpoint(outputs["model"]).tensors)
    return metrics


def _take(config: TrainRepoptConfig, given: Path, outputs: Outputs, context: Context) -> Metrics:
    names = open_split(config.data, "val", context).class_names
    wanted = architecture(config.model, num_classes=len(names))
    if is_archive(given):
        released = read_released_checkpoint(given, wanted, names, config.model.image_size)
        save_checkpoint(outputs["model"], released)
        return {"trained": False, "released": True}
    checkpoint = load_checkpoint(given)
    require_classes(checkpoint, names, given)
    if checkpoint.architecture != wanted:
        raise ArtifactError(
            f"the checkpoint is of model {checkpoint.architecture.name}, not {wanted.name}",
            path=given,
            hint=f"set model={checkpoint.architecture.name}",
        )
    if checkpoint.image_size != config.model.image_size:
        raise ArtifactError(
            f"the checkpoint is for {checkpoint.image_size} px, not {config.model.image_size}",
            path=given,
            hint=f"set model.image_size={checkpoint.image_size}",
        )
    shutil.copyfile(given, outputs["model"])
    return {"trained": False}


def _train(config: TrainRepoptConfig, outputs: Outputs, context: Context) -> Metrics:
    dataset = open_split(config.data, "train", context)
    held_out = open_split(config.data, "val", context)
    _note_counts(dataset, context)
    _note_counts(held_out, context)
    shape = architecture(config.model, num_classes=len(dataset.class_names))
    start = _STARTS[config.form](config, dataset, shape, outputs, context)
    numbers = recipe(config, config.model.iou_loss)
    result = _fit("train", config, numbers, start.detector, start.masks, dataset, held_out, context)
    selected = result.selected(config.select)
    checkpoint = Checkpoint(
        architecture=shape,
        form=config.form,
        class_names=dataset.class_names,
        image_size=config.model.image_size,
        tensors=selected.weights,
        precision_plan=None,
        provenance=context.provenance(epochs=config.epochs, best_epoch=result.best_epoch or 0),
    )
    save_checkpoint(outputs["model"], checkpoint)
    write_json(outputs["history"], {"search": start.search_history, "train": result.history})
    return {
        "trained": True,
        "map": selected.score,
        "epoch": selected.epoch,
        "best_epoch": result.best_epoch,
        "stopped_early": result.stopped_early,
        "num_train_images": len(dataset.images),
    }


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What the training begins with."""

    detector: Detector
    masks: Mapping[str, Any] | None
    search_history: list[dict[str, float]]


def _plain_kernels(
    config: TrainRepoptConfig,
    dataset: DetectionDataset,
    shape: Architecture,
    outputs: Outputs,
    context: Context,
) -> _Start:
    """One 3x3 kernel a block; the branches live on in its first value and its gradient."""
    scales, search_history = _scales(config, dataset, shape, context)
    save_scales(outputs["rep_scales"], scales)
    detector = build_detector(shape, "repopt", seed=context.seed)
    initialize_from_scales(detector, scales, seed=context.seed)
    return _Start(
        detector=detector, masks=gradient_masks(detector, scales), search_history=search_history
    )


def _branches(
    config: TrainRepoptConfig,  # noqa: ARG001
    dataset: DetectionDataset,  # noqa: ARG001
    shape: Architecture,
    outputs: Outputs,  # noqa: ARG001
    context: Context,
) -> _Start:
    """Three branches a block, merged only for deployment: nothing to search."""
    return _Start(
        detector=build_detector(shape, "repvgg", seed=context.seed), masks=None, search_history=[]
    )


_STARTS = {"repopt": _plain_kernels, "repvgg": _branches}


def _scales(
    config: TrainRepoptConfig, dataset: DetectionDataset, shape: Architecture, context: Context
) -> tuple[Scales, list[dict[str, float]]]:
    """The scales of the file that is given, or those of a search."""
    if config.scales is not None:
        read = released_scales if is_archive(config.scales) else load_scales
        return read(config.scales), []
    detector = build_detector(shape, "linear_add", seed=context.seed)
    numbers = replace(
        recipe(config, config.model.iou_loss), epochs=config.search.epochs, lr=config.search.lr
    )
    found = _fit("search", config, numbers, detector, None, dataset, None, context)
    detector.load_state_dict(found.weights)
    return extract_scales(detector), found.history


def _fit(
    part: str,
    config: TrainRepoptConfig,
    numbers: Recipe,
    detector: Detector,
    masks: Mapping[str, Any] | None,
    dataset: DetectionDataset,
    held_out: DetectionDataset | None,
    context: Context,
) -> TrainResult:
    """Does one of the trainings of the step."""
    job = TrainingJob(
        detector=detector,
        recipe=numbers,
        dataset=dataset,
        image_size=config.model.image_size,
        augmentation=config.augmentation,
        seed=context.seed,
        device=context.device,
        execution=execution(config, context.device),
        masks=masks,
        distillation=None,
        progress_folder=context.progress_folder / part,
        description=f"{context.step}: {part}",
    )
    return fit(
        job,
        held_out=held_out,
        log_folder=log_folder(config, context.step, part),
        progress=context.progress,
    )


def _note_counts(dataset: DetectionDataset, context: Context) -> None:
    """Says what was read, what was mended, and what was left out."""
    counts = ", ".join(f"{value} {name}" for name, value in dataset.counts.items() if value)
    context.progress.note(f"{context.step}: {dataset.name}: {counts}".replace("_", " "))
    for line in dataset.notes[:5]:
        context.progress.note(f"  {line}")
