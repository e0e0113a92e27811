"""COCO detection data sets: a folder of images and a JSON file of annotations."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard

import numpy as np

from quantpipe.data.dataset import DetectionDataset, ImageRecord, count_contents
from quantpipe.data.faults import Findings
from quantpipe.data.images import ImageHeader, read_header, stored_to_upright
from quantpipe.data.safe_paths import resolve_inside
from quantpipe.errors import DataError

Split = Literal["train", "val"]
_FOLDERS = ("{split}2017", "{split}", "images/{split}2017", "images/{split}")
_ANNOTATIONS = ("annotations/instances_{split}2017.json", "annotations/instances_{split}.json")


class _Annotation(NamedTuple):
    where: str
    box: tuple[float, float, float, float]  # x, y, width, height
    label: int
    crowd: bool
    area: float  # NaN where none is stated


@dataclass(frozen=True, kw_only=True)
class _Document:
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: dict[int, str]  # in order of id


def find_coco_split(root: Path, split: Split) -> tuple[Path, Path]:
    """Returns the image folder and the annotation file of a split below ``root``.

    Knows ``train/``, ``train2017/``, ``images/train/`` and ``images/train2017/`` beside
    ``annotations/instances_train[2017].json``.

    Raises:
        DataError: One of the two is not there.
    """
    folder = _first(root, [name.format(split=split) for name in _FOLDERS], "image folder")
    names = [name.format(split=split) for name in _ANNOTATIONS]
    return folder, _first(root, names, "annotation file")


def read_coco(
    images: Path, annotations: Path, *, max_bad_images: int, strict: bool
) -> DetectionDataset:
    """Reads and checks a COCO data set; labels follow the order of the category ids.

    Args:
        images: The folder that file names are relative to.
        annotations: The JSON file.
        max_bad_images: How many unreadable images may be left out.
        strict: Whether records that could be mended (boxes past the border, duplicate ids,
            missing fields, annotations of unknown images) are errors; else they are counted.

    Raises:
        DataError: The set cannot be read, is empty, names files outside ``images``, uses
            unknown categories, or has more faults than allowed.
    """
    if not images.is_dir():
        raise DataError("no such image folder", path=images)
    root = images.resolve()
    document = _read_document(annotations)
    findings = Findings(annotations, strict=strict, max_bad_images=max_bad_images)
    by_image = _group(document, annotations, findings)
    records = []
    for entry in document.images:
        record = _record(entry, root, by_image[entry["id"]], findings)
        if record is not None:
            records.append(record)
    counts = count_contents(records)
    findings.finish(counts["images"], counts["boxes"])
    return DetectionDataset(
        name=annotations.stem,
        root=root,
        images=tuple(records),
        class_names=tuple(document.categories.values()),
        category_ids=tuple(document.categories),
        counts={**counts, **findings.counts},
        notes=findings.notes,
    )


def _first(root: Path, names: list[str], kind: str) -> Path:
    for name in names:
        if (root / name).exists():
            return root / name
    raise DataError(f"no {kind}: looked for {', '.join(names)}", path=root, hint="check data.root")


def _read_document(path: Path) -> _Document:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})", path=path) from error
    if not isinstance(document, dict):
        raise DataError("not a COCO document: the top level is no object", path=path)
    for key in ("images", "annotations", "categories"):
        entries = document.get(key)
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise DataError(f"not a COCO document: no list of objects '{key}'", path=path)
        if key != "annotations":
            _require_unique_ids(entries, key, path)
    categories = sorted(document["categories"], key=lambda entry: int(entry["id"]))
    for entry in categories:
        if not isinstance(entry.get("name"), str):
            raise DataError(f"category {entry['id']} has no name", path=path)
    return _Document(
        images=document["images"],
        annotations=document["annotations"],
        categories={entry["id"]: entry["name"] for entry in categories},
    )


def _require_unique_ids(entries: list[dict[str, Any]], key: str, path: Path) -> None:
    seen: set[int] = set()
    for entry in entries:
        number = entry.get("id")
        if not _is_integer(number):
            raise DataError(f"{key}: id {number!r} is not an integer", path=path)
        if number in seen:
            raise DataError(f"{key}: id {number} is there twice", path=path)
        seen.add(number)


def _group(document: _Document, path: Path, findings: Findings) -> dict[int, list[_Annotation]]:
    """Returns the usable annotations of each image; their ids are checked and then forgotten."""
    label_of = {category_id: label for label, category_id in enumerate(document.categories)}
    groups: dict[int, list[_Annotation]] = {entry["id"]: [] for entry in document.images}
    seen: set[int] = set()
    for position, entry in enumerate(document.annotations):
        number = entry.get("id")
        where = f"annotation {number}"
        if not _is_integer(number) or number == 0 or number in seen:
            where = f"annotation at position {position}"
            findings.mend("mended_ids", f"{where}: id {number!r} is missing, 0 or a duplicate")
        else:
            seen.add(number)
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        if not _is_integer(category_id) or category_id not in label_of:
            raise DataError(
                f"{where}: unknown category {category_id!r}",
                path=path,
                hint="add it to 'categories' or remove the annotation",
            )
        if not _is_integer(image_id) or image_id not in groups:
            findings.mend("unknown_images", f"{where}: unknown image {image_id!r}, dropped")
            continue
        groups[image_id].append(_annotation(entry, where, label_of[category_id], findings))
    return groups


def _annotation(
    entry: Mapping[str, Any], where: str, label: int, findings: Findings
) -> _Annotation:
    crowd, area = entry.get("iscrowd"), _number(entry.get("area"))
    if crowd not in (0, 1) or not (0 <= area < math.inf):
        findings.mend("mended_fields", f"{where}: 'iscrowd' or 'area' is missing or out of range")
        area = math.nan
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        box = [None] * 4  # dropped and counted with the other boxes that mean nothing
    return _Annotation(
        where=where,
        box=(_number(box[0]), _number(box[1]), _number(box[2]), _number(box[3])),
        label=label,
        crowd=crowd == 1,
        area=area,
    )


def _record(
    entry: Mapping[str, Any], root: Path, annotations: list[_Annotation], findings: Findings
) -> ImageRecord | None:
    path = resolve_inside(root, entry.get("file_name"))
    name = str(entry["file_name"])
    if not path.is_file():
        findings.bad_image(name, "no such file" if not path.exists() else "not a regular file")
        return None
    try:
        header = read_header(path)
    except DataError as error:
        findings.bad_image(name, error.cause)
        return None
    stated = (entry.get("width"), entry.get("height"))
    actual = (header.width, header.height)
    turned = header.orientation >= 5 and stated == actual[::-1] and stated != actual
    if stated == (None, None):
        findings.mend("mended_sizes", f"image {name}: no width and height, taken from the file")
    elif turned:
        findings.mend("turned_images", f"image {name}: annotated before its EXIF rotation")
    elif stated != actual:
        stated_size, actual_size = ("x".join(map(str, size)) for size in (stated, actual))
        findings.bad_image(name, f"annotated as {stated_size} but the file is {actual_size}")
        return None
    return _build(entry["id"], path, header, annotations, findings, turned=turned)


def _build(
    image_id: int,
    path: Path,
    header: ImageHeader,
    annotations: list[_Annotation],
    findings: Findings,
    *,
    turned: bool,
) -> ImageRecord:
    width, height = header.width, header.height
    boxes = np.array([a.box for a in annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    if turned:
        boxes = stored_to_upright(boxes, orientation=header.orientation, width=height, height=width)
    where = [f"{a.where} ({path.name})" for a in annotations]
    boxes, kept = findings.fit_boxes(boxes, width=width, height=height, where=where)
    labels = np.array([a.label for a in annotations], dtype=np.int64)
    crowd = np.array([a.crowd for a in annotations], dtype=np.bool_)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    stated = np.array([a.area for a in annotations])
    areas = np.where(np.isnan(stated), areas, stated)
    ordinary = kept & ~crowd
    return ImageRecord(
        image_id=image_id,
        path=path,
        width=width,
        height=height,
        boxes=boxes[ordinary].astype(np.float32),
        labels=labels[ordinary],
        areas=areas[ordinary].astype(np.float32),
        crowd_boxes=boxes[kept & crowd].astype(np.float32),
        crowd_labels=labels[kept & crowd],
    )


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _number(value: object) -> float:
    """Returns the value of a JSON number; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf
