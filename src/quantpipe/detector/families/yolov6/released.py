"""Released YOLOv6 checkpoints as ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.families.implementation import TakenCheckpoint
from quantpipe.detector.families.yolov6.activations import require_activations
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
from quantpipe.detector.families.yolov6.released_names import canonical, our_names
from quantpipe.detector.families.yolov6.releases import require_release
from quantpipe.detector.released.tensors import read_network, split_quantizers
from quantpipe.errors import ArtifactError
from quantpipe.files import sha256_file

_CLASSES = "detect.cls_preds.0.weight"
# Ours are constants of the architecture; the released ones are never trained.
_CONSTANTS = ("detect.proj", "detect.proj_conv.weight")
IDLE = ("detect.proj_conv",)
_FORM_MARKS: tuple[tuple[str, BlockForm], ...] = (
    (".rbr_reparam.weight", "deploy"),
    (".rbr_dense.conv.weight", "repvgg"),
    (".scale_1x1.weight", "linear_add"),
    # A convolution that BatchNorm was folded into, in all blocks or in some.
    (".conv.bias", "deploy"),
)
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def read_released_checkpoint(
    path: Path, model: Yolov6Settings, class_names: tuple[str, ...]
) -> TakenCheckpoint:
    """Reads a released YOLOv6 checkpoint as one of ours.

    RepOpt-form weights stay as they are; RepVGG-form ones are re-parameterized to one convolution a
    block (arXiv 2101.03697, section 3.3); where BatchNorm was folded in some places, it is folded
    in all. Quantizers are left out.

    Args:
        path: The file.
        model: What it should be of, and the size of its images: the file does not say.
        class_names: The file names no classes: those of the data set, in its order.

    Raises:
        ArtifactError: It is of another release, size or activation, the number of classes differs,
            a tensor is missing, extra, of another shape or not finite; one line that names it.
    """
    network = read_network(path)
    found, quantizers = split_quantizers(network.tensors)
    shape = architecture(model, num_classes=len(class_names))
    require_release(found, shape, path)
    _require_classes(found, class_names, path)
    notes = require_activations(network.classes, shape, path)
    if quantizers:
        left_out = f"left out: {len(quantizers)} quantizer tensors"
        notes = (f"{left_out}; calibrate.from_checkpoint reads them", *notes)
    form, tensors = _deployed_or_trained(found, shape, path)
    return TakenCheckpoint(
        checkpoint=Checkpoint(
            family=YOLOV6.name,
            settings=Description(shape, form).settings(),
            class_names=class_names,
            input=YOLOV6.input(model),
            tensors=tensors,
            provenance={"source": path.name, "source_sha256": sha256_file(path)},
        ),
        notes=notes,
    )


def _deployed_or_trained(
    found: Mapping[str, Tensor], shape: Architecture, path: Path
) -> tuple[BlockForm, dict[str, Tensor]]:
    """The form that a file's network keeps here, and its tensors under our names."""
    form = _form(found)
    if form == "deploy":
        found = _folded(found)
    if form == "repvgg":
        tensors = renamed(_unfolded(found), shape, form, path)
        detector = detector_from_tensors(shape, form, tensors)
        return "deploy", dict(fold_batch_norm(detector).state_dict())
    return form, renamed(found, shape, form, path)


def renamed(
    found: Mapping[str, Tensor], shape: Architecture, form: BlockForm, path: Path
) -> dict[str, Tensor]:
    """Gives tensors of either generation our names, every one of ours exactly once.

    Raises:
        ArtifactError: One is missing, extra, twice there, of another shape, or not finite.
    """
    expected = uninitialized_detector(shape, form).state_dict()
    ours = our_names(expected)
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
                hint="set the model.* channels that it was trained with",
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


def fold_factors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns g / s of the BatchNorm beside each convolution, (C_out,) in float64, by its name."""
    factors = {}
    for name, variance in tensors.items():
        path = name.removesuffix(".bn.running_var")
        gain = tensors.get(f"{path}.bn.weight")
        if path != name and gain is not None and gain.ndim == 1 and gain.shape == variance.shape:
            factors[f"{path}.conv"] = gain.double() / (variance.double() + BATCH_NORM_EPS).sqrt()
    return factors


def _folded(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Folds what BatchNorm is left: W g / s, and b + (b' - mean) g / s of a convolution's b'."""
    tensors = dict(found)
    for conv, factor in fold_factors(found).items():
        path = conv.removesuffix(".conv")
        weight = tensors.get(f"{conv}.weight")
        norm = [tensors.get(f"{path}.bn.{part}") for part in _BATCH_NORM]
        if weight is None or any(t is None or len(t) != len(weight) for t in norm):
            continue  # reported as a tensor without a place
        _, bias, mean, _ = (tensors.pop(f"{path}.bn.{part}").double() for part in _BATCH_NORM)
        tensors.pop(f"{path}.bn.num_batches_tracked", None)
        own = tensors.get(f"{conv}.bias", torch.zeros_like(mean)).double()
        tensors[f"{conv}.weight"] = (weight.double() * factor.view(-1, 1, 1, 1)).float()
        tensors[f"{conv}.bias"] = (bias + (own - mean) * factor).float()
    return tensors


def _unfolded(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gives folded convolutions beside branches a BatchNorm that changes nothing but the bias."""
    tensors = dict(found)
    for name, bias in found.items():
        path = name.removesuffix(".conv.bias")
        if path == name or f"{path}.bn.running_var" in found:
            continue
        ones = torch.ones_like(tensors.pop(name))
        values = (ones, bias, ones * 0, ones - BATCH_NORM_EPS)
        tensors.update({f"{path}.bn.{p}": t for p, t in zip(_BATCH_NORM, values, strict=True)})
        tensors[f"{path}.bn.num_batches_tracked"] = torch.tensor(0)
    return tensors
