"""Which release the tensors of a file are of, and which releases are read.

The releases differ in their blocks, stages, necks and heads, and these in the names of their
tensors; the size of a network is the width of its stem (arXiv 2209.02976 and 2301.05586).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.errors import ArtifactError

_READ = "read are N, T and S of 0.2 and 0.2.1, and base N of 0.2.1"
# By the channels of the stem, of which the full-size network has 64.
_SIZES = {16: "N", 24: "T", 32: "S", 48: "M", 64: "L"}
_FULL_STEM = 64
_MODELS = {"N": "yolov6n", "T": "yolov6t", "S": "yolov6s"}
# By the input channels of the neck's first layer.
_LITE_SIZES = {176: "S", 288: "M", 384: "L"}
_LITE_NECK = "neck.reduce_layer0.block.conv.weight"


@dataclass(frozen=True, kw_only=True)
class Release:
    """What the tensors of a file show.

    Attributes:
        title: Size, kind and version.
        choice: The setting that names its size; None where the release is not read.
        stem_channels: Output channels of the first convolution.
    """

    title: str
    choice: str | None
    stem_channels: int


@dataclass(frozen=True, kw_only=True)
class _Marks:
    """Which of the parts that tell releases apart a file has."""

    objectness: bool
    bidirectional: bool
    four_levels: bool
    cross_stage: bool
    many_branches: bool
    plain: bool
    quantization_aware: bool
    second_names: bool

    @property
    def is_read(self) -> bool:
        """Whether stages, neck and head are those of our network."""
        return not (
            self.objectness
            or self.bidirectional
            or self.four_levels
            or self.cross_stage
            or self.many_branches
            or self.quantization_aware
        )


def release_of(tensors: Mapping[str, Tensor]) -> Release | None:
    """What the tensors of a file show, by their released names; None for no YOLOv6."""
    if _any(tensors, "backbone.lite_effiblock"):
        return Release(title=_lite(tensors.get(_LITE_NECK)), choice=None, stem_channels=0)
    stem = _stem_channels(tensors)
    if stem is None or not _any(tensors, "neck.") or not _any(tensors, "detect."):
        return None
    marks, size = _marks(tensors), _SIZES.get(stem)
    return Release(
        title=_title(stem, size, marks),
        choice=_choice(size, stem) if marks.is_read else None,
        stem_channels=stem,
    )


def describe(tensors: Mapping[str, Tensor]) -> str:
    """What a file's tensors show, and what to do with it: the end of a message."""
    found = release_of(tensors)
    if found is None:
        return f"it shows no YOLOv6 that is known; {_READ}"
    if found.choice is None:
        return f"it is of {found.title}, a release that is not read yet; {_READ}"
    return f"it is of {found.title}: {found.choice}"


def require_release(tensors: Mapping[str, Tensor], shape: Architecture, path: Path) -> None:
    """Raises ArtifactError unless tensors show a release that is read, of the model's width."""
    found = release_of(tensors)
    if found is None:
        raise ArtifactError(
            f"the names of its {len(tensors)} tensors, '{next(iter(tensors))[:60]}' first, are "
            f"those of no YOLOv6",
            path=path,
            hint=_READ,
        )
    if found.choice is None:
        raise ArtifactError(
            f"is of {found.title}, a release that is not read yet", path=path, hint=_READ
        )
    if found.stem_channels != shape.backbone_widths[0]:
        raise ArtifactError(
            f"is of {found.title}, not {shape.name}", path=path, hint=f"set {found.choice}"
        )


def _marks(tensors: Mapping[str, Tensor]) -> _Marks:
    names = "\n".join(tensors)
    return _Marks(
        objectness="detect.obj_preds." in names,
        bidirectional=".Bifusion0." in names,
        four_levels="backbone.ERBlock_6." in names,
        cross_stage=".m.conv1.conv1." in names,
        many_branches=".m.0.0." in names,
        plain="backbone.stem.block.conv." in names,
        quantization_aware=".rbr_1x1.weight" in names,
        second_names=".Bifusion0.cv1.block." in names,
    )


def _title(stem: int, size: str | None, marks: _Marks) -> str:
    named = f"YOLOv6 of width {stem / _FULL_STEM:g}" if size is None else f"YOLOv6-{size}"
    named = f"{named}6" if marks.four_levels else named
    if marks.quantization_aware:
        return f"{named} qa"
    if marks.many_branches:
        return f"{named} MBLA of {_version(marks, is_base=False)}"
    if size == "L" and marks.cross_stage:
        kind = named if marks.plain else f"{named} (ReLU)"
        return f"{kind} of {_version(marks, is_base=False)}"
    return f"{'base ' if marks.plain else ''}{named} of {_version(marks, is_base=marks.plain)}"


def _version(marks: _Marks, *, is_base: bool) -> str:
    if marks.objectness:
        return "0.1"
    if marks.bidirectional:
        return "0.4" if marks.second_names else "0.3"
    return "0.2.1" if is_base else "0.2"


def _lite(neck: Tensor | None) -> str:
    size = None if neck is None or neck.ndim < 2 else _LITE_SIZES.get(neck.shape[1])
    return "YOLOv6Lite" if size is None else f"YOLOv6Lite-{size}"


def _choice(size: str | None, stem: int) -> str:
    model = _MODELS.get(size or "")
    return f"model.width={stem / _FULL_STEM:g}" if model is None else f"model={model}"


def _stem_channels(tensors: Mapping[str, Tensor]) -> int | None:
    kernels = (t for n, t in tensors.items() if n.startswith("backbone.stem.") and t.ndim == 4)
    return next((len(kernel) for kernel in kernels), None)


def _any(tensors: Mapping[str, Tensor], start: str) -> bool:
    return any(name.startswith(start) for name in tensors)
