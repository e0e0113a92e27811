"""Hyper-search of RepOptimizer's scales, then the RepOptimizer training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from quantpipe.core.stage import Context, Inputs, Metrics, Outputs
from quantpipe.data.dataset import DetectionDataset
from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_family import implementation_of
from quantpipe.detector.checkpoint_file import load_checkpoint, save_checkpoint
from quantpipe.detector.families.implementation import DetectorNetwork, Search, Training
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.detector.released.archive import is_archive
from quantpipe.detector.released.state_dict import write_state_dict
from quantpipe.errors import ArtifactError, ConfigurationError
from quantpipe.files import write_json
from quantpipe.quantization.model import require_classes
from quantpipe.settings.data import open_split
from quantpipe.settings.model import family_of, input_of
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
    model = config.model
    if is_archive(given):
        released = family_of(model).implementation().released
        if released is None:
            raise ArtifactError(f"family {model.family} reads no such files", path=given)
        taken = released.checkpoint(given, model, names)
        for note in taken.notes:
            context.progress.note(f"{context.step}: {given.name}: {note}")
        save_checkpoint(outputs["model"], taken.checkpoint)
        return {"trained": False, "released": True}
    checkpoint = load_checkpoint(given)
    require_classes(checkpoint, names, given)
    _require_model(checkpoint, config, given)
    shutil.copyfile(given, outputs["model"])
    return {"trained": False}


def _require_model(checkpoint: Checkpoint, config: TrainRepoptConfig, path: Path) -> None:
    """Refuses a checkpoint of another model, or for images of another size."""
    model, wanted = config.model, input_of(config.model)
    if checkpoint.family != model.family:
        raise ArtifactError(
            f"the checkpoint is of family {checkpoint.family}, not {model.family}",
            path=path,
            hint="choose a model of that family",
        )
    try:
        implementation_of(checkpoint).require_model(checkpoint, model)
    except ArtifactError as error:
        error.path = path
        raise
    if checkpoint.input != wanted:
        raise ArtifactError(
            f"the checkpoint is for {checkpoint.input.shown} px, not {wanted.shown}",
            path=path,
            hint=f"set model.image_size={_written(checkpoint.input)}",
        )


def _written(specification: InputSpecification) -> str:
    """Its size as the command line takes it."""
    height, width = specification.size
    return str(width) if height == width else f"[{height},{width}]"


def _train(config: TrainRepoptConfig, outputs: Outputs, context: Context) -> Metrics:
    training = _training(config)
    dataset = open_split(config.data, "train", context)
    held_out = open_split(config.data, "val", context)
    searched: list[dict[str, float]] = []
    search = Search(
        file=config.scales,
        result=outputs["rep_scales"],
        train=lambda network: _searched(config, network, dataset, searched, context),
    )
    num_classes = len(dataset.class_names)
    start = training.start(config.form, config.model, num_classes, context.seed, search)
    numbers = recipe(config)
    result = _fit("train", config, numbers, start.network, start.masks, dataset, held_out, context)
    selected = result.selected(config.select)
    checkpoint = Checkpoint(
        family=config.model.family,
        settings=start.settings,
        class_names=dataset.class_names,
        input=input_of(config.model),
        tensors=selected.weights,
        provenance=context.provenance(epochs=config.epochs, best_epoch=result.best_epoch or 0),
    )
    save_checkpoint(outputs["model"], checkpoint)
    write_json(outputs["history"], {"search": searched, "train": result.history})
    return {
        "trained": True,
        "map": selected.score,
        "epoch": selected.epoch,
        "best_epoch": result.best_epoch,
        "stopped_early": result.stopped_early,
        "num_train_images": len(dataset.images),
    }


def _training(config: TrainRepoptConfig) -> Training:
    """How the model's family trains.

    Raises:
        ConfigurationError: It cannot be trained from labels.
    """
    training = family_of(config.model).implementation().training
    if training is None:
        raise ConfigurationError(
            f"family {config.model.family} cannot be trained from labels",
            path="train_repopt.checkpoint",
            hint="give a trained checkpoint",
        )
    return training


def _searched(
    config: TrainRepoptConfig,
    network: DetectorNetwork,
    dataset: DetectionDataset,
    history: list[dict[str, float]],
    context: Context,
) -> Mapping[str, Tensor]:
    """The weights that a training of the length and rate of the search leaves."""
    numbers = recipe(config)
    numbers = replace(numbers, epochs=config.search.epochs, lr=config.search.lr)
    found = _fit("search", config, numbers, network, None, dataset, None, context)
    history.extend(found.history)
    return found.weights


def _fit(
    part: str,
    config: TrainRepoptConfig,
    numbers: Recipe,
    detector: DetectorNetwork,
    masks: Mapping[str, Tensor] | None,
    dataset: DetectionDataset,
    held_out: DetectionDataset | None,
    context: Context,
) -> TrainResult:
    """Does one of the trainings of the step."""
    job = TrainingJob(
        detector=detector,
        recipe=numbers,
        loss=_training(config).loss(config.loss),
        dataset=dataset,
        specification=input_of(config.model),
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
