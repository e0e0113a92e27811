"""Public YOLOv6 checkpoints as ours, and how their names became ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.families.yolov6.architecture import Architecture, BlockForm
from quantpipe.detector.families.yolov6.checkpoint import Description
from quantpipe.detector.families.yolov6.family import YOLOV6, Yolov6Settings, architecture
from quantpipe.detector.families.yolov6.layers import BATCH_NORM_EPS
from quantpipe.detector.families.yolov6.network import (
    build_detector,
    detector_from_tensors,
    fold_batch_norm,
    uninitialized_detector,
)
from quantpipe.detector.released.tensors import read_state
from quantpipe.errors import ArtifactError
from quantpipe.files import sha256_file

_CLASSES = "detect.cls_preds.0.weight"
# Ours are constants of the architecture; the public ones are never trained.
_CONSTANTS = ("detect.proj", "detect.proj_conv.weight")
IDLE = ("detect.proj_conv",)
_FORM_MARKS: tuple[tuple[str, BlockForm], ...] = (
    (".rbr_reparam.weight", "deploy"),
    (".rbr_dense.conv.weight", "repvgg"),
    (".scale_1x1.weight", "linear_add"),
    ("backbone.stem.conv.bias", "deploy"),
)


def read_released_checkpoint(
    path: Path, model: Yolov6Settings, class_names: tuple[str, ...]
) -> Checkpoint:
    """Reads a public YOLOv6 checkpoint as one of ours.

    RepOpt-form weights stay as they are; RepVGG-form ones are re-parameterized to one convolution a
    block (arXiv 2101.03697, section 3.3).

    Args:
        path: The file.
        model: What it should be of, and the size of its images: the file does not say.
        class_names: The file names no classes: those of the data set, in its order.

    Raises:
        ArtifactError: The number of classes differs, a tensor is missing, extra, of another shape
            or not finite; one line that names it.
    """
    found = read_state(path)
    form = _form(found)
    _require_classes(found, class_names, path)
    if form == "deploy":
        found = _folded(found)
    shape = architecture(model, num_classes=len(class_names))
    tensors = renamed(found, shape, form, path)
    if form == "repvgg":
        detector = detector_from_tensors(shape, form, tensors)
        form, tensors = "deploy", dict(fold_batch_norm(detector).state_dict())
    return Checkpoint(
        family=YOLOV6.name,
        settings=Description(shape, form).settings(),
        class_names=class_names,
        input=YOLOV6.input(model),
        tensors=tensors,
        provenance={"source": path.name, "source_sha256": sha256_file(path)},
    )


def canonical(name: str) -> str:
    """A name without the levels that only one generation of the public names has.

    0.2.0 has no ``sppf.`` and no ``block.`` between a conv-bn-activation and its parts; fused
    RepVGG blocks call their convolution ``rbr_reparam``.
    """
    levels = f"{name}."
    for level in ("conv", "bn"):
        levels = levels.replace(f".block.{level}.", f".{level}.")
    return levels.replace(".sppf.", ".").replace(".rbr_reparam.", ".conv.")[:-1]


def operation_namer(names: Iterable[str]) -> Callable[[str], str | None]:
    """What finds ours among ``names`` by a public name of either generation."""
    ours = _our_names(names)
    return lambda name: ours.get(canonical(name))


def _our_names(names: Iterable[str]) -> dict[str, str]:
    """Maps canonical names to ours, for the names of one of our networks."""
    return {canonical(name): name for name in names}


def renamed(
    found: Mapping[str, Tensor], shape: Architecture, form: BlockForm, path: Path
) -> dict[str, Tensor]:
    """Gives tensors of either generation our names, every one of ours exactly once.

    Raises:
        ArtifactError: One is missing, extra, twice there, of another shape, or not finite.
    """
    expected = uninitialized_detector(shape, form).state_dict()
    ours = _our_names(expected)
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.items():
        own = ours.get(canonical(name))
        if own in _CONSTANTS:
            continue
        if own is None or own in tensors:
            why = "has no place for" if own is None else "has already"
            raise ArtifactError(f"{shape.name} {why} its tensor '{name}'", path=path)
        want = expected[own]
        if tensor.shape != want.shape:
            raise ArtifactError(
                f"'{name}' is {list(tensor.shape)}, in {shape.name} {list(want.shape)}",
                path=path,
                hint="choose the model that it is of with model=",
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"'{name}' holds a NaN or an infinity", path=path)
        tensors[own] = tensor.to(want.dtype)
    missing = sorted(expected.keys() - tensors.keys() - set(_CONSTANTS))
    if missing:
        raise ArtifactError(
            f"lacks '{missing[0]}'" + (f" and {len(missing) - 1} more" if missing[1:] else ""),
            path=path,
            hint=f"is it of model {shape.name}?",
        )
    constants = _constants(shape, form)
    return {name: constants.get(name, tensors.get(name)) for name in expected}  # type: ignore[misc]


def _constants(shape: Architecture, form: BlockForm) -> dict[str, Tensor]:
    state = build_detector(shape, form, seed=0).state_dict()
    return {name: state[name] for name in _CONSTANTS}


def _form(found: Mapping[str, Tensor]) -> BlockForm:
    for mark, form in _FORM_MARKS:
        if any(name.endswith(mark) for name in found):
            return form
    return "repopt"


def _require_classes(found: Mapping[str, Tensor], class_names: tuple[str, ...], path: Path) -> None:
    head = found.get(_CLASSES)
    if head is not None and head.ndim == 4 and len(head) != len(class_names):
        shown = ", ".join(class_names[:5]) + (", ..." if class_names[5:] else "")
        raise ArtifactError(
            f"the checkpoint has {len(head)} classes, the data set {len(class_names)} ({shown})",
            path=path,
            hint="choose a checkpoint of these classes, or the data set that it was trained on",
        )


def _folded(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Folds what BatchNorm a deployed checkpoint has left: W g / s, and b - mean g / s."""
    tensors = dict(found)
    for name in found:
        path = name.removesuffix(".bn.running_var")
        if path == name or f"{path}.conv.weight" not in found:
            continue
        parts = ("weight", "bias", "running_mean", "running_var")
        gain, bias, mean, variance = (tensors.pop(f"{path}.bn.{part}").double() for part in parts)
        tensors.pop(f"{path}.bn.num_batches_tracked", None)
        factor = gain / (variance + BATCH_NORM_EPS).sqrt()
        weight = tensors[f"{path}.conv.weight"].double() * factor.view(-1, 1, 1, 1)
        tensors[f"{path}.conv.weight"] = weight.float()
        tensors[f"{path}.conv.bias"] = (bias - mean * factor).float()
    return tensors
