"""What a checkpoint says of a network of this family, and the networks that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple, get_args

from quantpipe.detector.checkpoint import Checkpoint, require_tensors
from quantpipe.detector.families.yolov6.architecture import STRIDES, Architecture, BlockForm
from quantpipe.detector.families.yolov6.family import Yolov6Settings, architecture
from quantpipe.detector.families.yolov6.network import (
    Detector,
    detector_from_tensors,
    fold_batch_norm,
    uninitialized_detector,
)
from quantpipe.errors import ArtifactError, ConfigurationError


class Description(NamedTuple):
    """A network's size, and how its 3x3 blocks are parameterised."""

    architecture: Architecture
    form: BlockForm

    def settings(self) -> dict[str, Any]:
        """As a checkpoint's header has it."""
        fields = asdict(self.architecture).items()
        shape = {k: list(v) if isinstance(v, tuple) else v for k, v in fields}
        return {"architecture": shape, "form": self.form}


def description(checkpoint: Checkpoint) -> Description:
    """What the header of a checkpoint says.

    Raises:
        ArtifactError: It says something else.
    """
    try:
        fields: Mapping[str, Any] = checkpoint.settings["architecture"]
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        found = Description(Architecture(**values), checkpoint.settings["form"])
    except (KeyError, TypeError, ValueError, AttributeError, ConfigurationError) as error:
        raise ArtifactError(f"unusable header: {error}", hint="make it again") from error
    if found.form not in get_args(BlockForm):
        raise ArtifactError(f"unknown form '{found.form}'")
    return found


def check(checkpoint: Checkpoint) -> None:
    """Raises ArtifactError unless a checkpoint describes one whole detector."""
    shape, form = description(checkpoint)
    if len(checkpoint.class_names) != shape.num_classes:
        raise ArtifactError(
            f"{len(checkpoint.class_names)} class names for {shape.num_classes} classes"
        )
    for side in checkpoint.input.size:
        if side % STRIDES[-1]:
            raise ArtifactError(f"image size {side} is not a multiple of {STRIDES[-1]}")
    require_tensors(checkpoint, uninitialized_detector(shape, form).state_dict())


def require_model(checkpoint: Checkpoint, model: Yolov6Settings) -> None:
    """Raises ArtifactError unless a checkpoint is of a model, whatever its images' size."""
    found = description(checkpoint).architecture
    wanted = architecture(model, num_classes=len(checkpoint.class_names))
    if found != wanted:
        raise ArtifactError(
            f"the checkpoint is of model {found.name}, not {wanted.name}",
            hint=f"set model={found.name}",
        )


def restore(checkpoint: Checkpoint) -> Detector:
    """The network of a checkpoint, in evaluation mode; it owns the tensors."""
    return detector_from_tensors(*description(checkpoint), dict(checkpoint.tensors))


def deploy(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with branches merged and BatchNorm folded; itself where nothing is left."""
    found = description(checkpoint)
    if found.form == "deploy":
        return checkpoint
    folded = fold_batch_norm(restore(checkpoint))
    settings = found._replace(form="deploy").settings()
    return replace(checkpoint, settings=settings, tensors=dict(folded.state_dict()))
