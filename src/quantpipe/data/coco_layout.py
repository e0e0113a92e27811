"""Where the images and annotations of a COCO split lie, in the layouts that tools write."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from quantpipe.errors import DataError

Split = Literal["train", "val"]
_NAMES = {
    "train": ("train2017", "train", "Train"),
    "val": ("val2017", "val", "valid", "validation", "Validation", "Val"),
}
_FOLDERS = ("{name}", "images/{name}")
_ANNOTATIONS = ("annotations/instances_{name}.json", "annotations/{name}.json")
_BESIDE = "{name}/_annotations.coco.json"  # Roboflow's
_SHARED = "images"


def find_coco_split(root: Path, split: Split) -> tuple[Path, Path]:
    """Returns the image folder and the annotation file of a split below ``root``.

    Knows ``train/``, ``train2017/`` (also below ``images/``, or ``images/`` for all splits) beside
    ``annotations/[instances_]train[2017].json``, and ``train/_annotations.coco.json`` beside its
    images; ``val`` may be called ``valid`` or ``validation``.

    Raises:
        DataError: One of the two is not there.
    """
    for beside in _named(_BESIDE, split):
        if (root / beside).exists():
            return (root / beside).parent, root / beside
    folders = [place for pattern in _FOLDERS for place in _named(pattern, split)]
    files = [place for pattern in _ANNOTATIONS for place in _named(pattern, split)]
    annotations = _first(root, files, "annotation file")
    return _first(root, [*folders, _SHARED], "image folder"), annotations


def _named(pattern: str, split: Split) -> list[str]:
    return [pattern.format(name=name) for name in _NAMES[split]]


def _first(root: Path, names: list[str], kind: str) -> Path:
    for name in names:
        if (root / name).exists():
            return root / name
    raise DataError(f"no {kind}: looked for {', '.join(names)}", path=root, hint=_hint(root, kind))


def _hint(root: Path, kind: str) -> str:
    inner = {path.parent for path in root.glob("*/annotations")}
    inner |= {path.parent.parent for path in root.glob("*/*/_annotations.coco.json")}
    if len(inner) == 1:
        return f"there is a data set in {inner.copy().pop().name}: set data.root={inner.pop()}"
    files = sorted(path.name for path in root.glob("annotations/*.json"))
    if kind == "annotation file" and files:
        return (
            f"there is {', '.join(files[:5])}: name data.train_annotations, data.val_annotations, "
            "data.train_images and data.val_images"
        )
    return "check data.root"
