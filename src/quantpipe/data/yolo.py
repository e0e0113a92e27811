"""YOLO detection data sets: one text file of normalized boxes beside each image.

Layouts: the paths of a ``data.yaml`` in the root (a folder, a list of folders, or a text file of
image names), ``images/<split>`` with ``labels/<split>``, or ``<split>/images`` with
``<split>/labels``. A line is ``class x y width height`` or a ``class x1 y1 x2 y2 ...`` outline,
both normalized by the upright image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml  # type: ignore[import-untyped]
from numpy.typing import NDArray

from quantpipe.data.dataset import DetectionDataset, ImageRecord, count_contents
from quantpipe.data.faults import Findings
from quantpipe.data.images import SUFFIXES, read_header
from quantpipe.data.safe_paths import resolve_inside
from quantpipe.errors import DataError

Split = Literal["train", "val"]
_ALIASES = {"train": ("train", "train2017"), "val": ("val", "valid", "validation", "val2017")}
_FOLDERS = ("images/{split}", "{split}/images")
_DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml")


class _Labels(NamedTuple):
    boxes: NDArray[np.float64]  # (n, 4) normalized x1, y1, x2, y2
    labels: NDArray[np.int64]
    where: list[str]


def read_yolo(
    root: Path,
    split: Split,
    *,
    class_names: Sequence[str] | None = None,
    max_bad_images: int,
    strict: bool,
    allow_unlabelled: bool,
) -> DetectionDataset:
    """Reads and checks a split of a YOLO data set, laid out as the module says.

    Args:
        root: The folder of the data set; no file outside it is opened.
        split: Which part.
        class_names: By label; None takes ``names`` from ``data.yaml``.
        max_bad_images: How many unreadable images may be left out.
        strict: Whether lines that could be mended or dropped are errors; else they are counted.
        allow_unlabelled: Whether an image without a label file is one without objects.

    Raises:
        DataError: The set cannot be read, is empty, has an image without labels that was not
            allowed, a class that has no name, or more faults than allowed.
    """
    if not root.is_dir():
        raise DataError("no such data folder", path=root)
    root = root.resolve()
    description = _read_description(root)
    names = _class_names(class_names, description, root)
    findings = Findings(root, strict=strict, max_bad_images=max_bad_images)
    images = _find_images(root, split, description)
    records = _read_images(root, images, len(names), findings, allow_unlabelled=allow_unlabelled)
    counts = count_contents(records)
    findings.finish(counts["images"], counts["boxes"])
    return DetectionDataset(
        name=f"{root.name}/{split}",
        root=root,
        images=tuple(records),
        class_names=names,
        category_ids=tuple(range(1, len(names) + 1)),
        counts={**counts, **findings.counts},
        notes=findings.notes,
    )


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Without aliases: forty lines of them can stand for more text than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuses an alias."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias, which is not read", mark)
        return super().compose_node(parent, index)


def _read_description(root: Path) -> dict[str, Any]:
    for name in _DESCRIPTIONS:
        path = root / name
        if path.is_file():
            break
    else:
        return {}
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)  # noqa: S506 - a safe one
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"not YAML ({error})", path=path) from error
    if not isinstance(content, dict):
        raise DataError("not a data set description: no mapping", path=path)
    return content


def _class_names(
    given: Sequence[str] | None, description: dict[str, Any], root: Path
) -> tuple[str, ...]:
    names: Any = description.get("names") if given is None else list(given)
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError("data.yaml: 'names' does not count from 0 without gaps", path=root)
        names = [names[label] for label in range(len(names))]
    texts = isinstance(names, list) and all(isinstance(name, str | int | float) for name in names)
    if not texts or not names:
        raise DataError(
            "no class names", path=root, hint="give 'names' in data.yaml, or class names"
        )
    count = description.get("nc", len(names))
    if given is None and count != len(names):
        raise DataError(f"data.yaml: nc is {count!r} but {len(names)} names are given", path=root)
    return tuple(map(str, names))


def _find_images(root: Path, split: Split, description: dict[str, Any]) -> list[tuple[Path, str]]:
    """Returns each image of the split with its name relative to ``root``, in order of name."""
    stated = description.get(split)
    if stated is None:
        folders = [f.format(split=alias) for alias in _ALIASES[split] for f in _FOLDERS]
        places = [name for name in folders if (root / name).is_dir()][:1]
        if not places:
            raise DataError(f"no images: looked for {', '.join(folders)}", path=root)
    else:
        places = list(stated) if isinstance(stated, list) else [stated]
    names = [name for place in places for name in _names_at(root, place, description)]
    return [(resolve_inside(root, name), name) for name in sorted(set(names))]


def _names_at(root: Path, place: object, description: dict[str, Any]) -> list[str]:
    """Returns the image names at a place that ``data.yaml`` or the layout names."""
    if isinstance(place, str) and place.startswith("../"):
        place = place.removeprefix("../")  # some exporters write paths as seen from a subfolder
    path = resolve_inside(root, place)
    base = description.get("path")
    if not path.exists() and isinstance(base, str) and not Path(base).is_absolute():
        path = resolve_inside(root, f"{base}/{place}")
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        return [str(file.relative_to(root)) for file in files]
    _refuse_pipe(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"no folder or list of images ({error})", path=path) from error
    return [line.strip().removeprefix("./") for line in lines if line.strip()]


def _read_images(
    root: Path,
    images: Sequence[tuple[Path, str]],
    num_classes: int,
    findings: Findings,
    *,
    allow_unlabelled: bool,
) -> list[ImageRecord]:
    """Returns a record of each image that can be read; its id is its place, from 1."""
    records = []
    for image_id, (path, name) in enumerate(images, start=1):
        labels = _label_path(name, root)
        found = _read_labels(labels, num_classes, findings, allow_missing=allow_unlabelled)
        record = _record(image_id, path, name, found, findings)
        if record is not None:
            records.append(record)
    return records


def _label_path(name: str, root: Path) -> Path:
    """Returns where the labels of an image lie: the last ``images`` in its name says where."""
    parts = list(Path(name).parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return resolve_inside(root, str(Path(*parts).with_suffix(".txt")))


def _read_labels(
    path: Path, num_classes: int, findings: Findings, *, allow_missing: bool
) -> _Labels:
    rows: list[tuple[int, list[float]]] = []
    where: list[str] = []
    for number, line in enumerate(_label_lines(path, allow_missing=allow_missing), start=1):
        if not line.strip():
            continue
        place = f"{path.parent.name}/{path.name} line {number}"
        values = _parse(line)
        if values is None:
            findings.mend("dropped", f"{place}: {line.strip()[:60]!r} is no box, dropped")
            continue
        label = values[0]
        if not (label.is_integer() and 0 <= label < num_classes):
            raise DataError(
                f"line {number}: unknown class {label:g}, {num_classes} are named", path=path
            )
        rows.append((int(label), _corners(values[1:])))
        where.append(place)
    return _Labels(
        boxes=np.array([box for _, box in rows], dtype=np.float64).reshape(-1, 4),
        labels=np.array([label for label, _ in rows], dtype=np.int64),
        where=where,
    )


def _label_lines(path: Path, *, allow_missing: bool) -> list[str]:
    if not path.exists():
        if allow_missing:
            return []
        raise DataError(
            "label file missing",
            path=path,
            hint="add it (empty for no objects) or set allow_unlabelled=true",
        )
    _refuse_pipe(path)
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"label file cannot be read ({error})", path=path) from error


def _refuse_pipe(path: Path) -> None:
    """Whoever opens a pipe without a writer waits for one for ever."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError("not a regular file", path=path)


def _parse(line: str) -> list[float] | None:
    """Returns the numbers of a label line, or None where it is neither a box nor an outline."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        return None
    is_outline = len(values) >= 7 and len(values) % 2 == 1
    return values if len(values) == 5 or is_outline else None


def _corners(values: list[float]) -> list[float]:
    if len(values) == 4:
        x, y, width, height = values
        return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    # numpy, as min and max of the language drop a NaN that is not the first
    points = np.array(values).reshape(-1, 2)
    return [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]


def _record(
    image_id: int, path: Path, name: str, found: _Labels, findings: Findings
) -> ImageRecord | None:
    if not path.is_file():
        findings.bad_image(name, "no such file" if not path.exists() else "not a regular file")
        return None
    try:
        header = read_header(path)
    except DataError as error:
        findings.bad_image(name, error.cause)
        return None
    width, height = header.width, header.height
    boxes = found.boxes * np.array([width, height, width, height])
    boxes, kept = findings.fit_boxes(boxes, width=width, height=height, where=found.where)
    return ImageRecord(
        image_id=image_id,
        path=path,
        width=width,
        height=height,
        boxes=boxes[kept].astype(np.float32),
        labels=found.labels[kept],
        areas=np.prod(boxes[kept, 2:] - boxes[kept, :2], axis=1).astype(np.float32),
        crowd_boxes=np.zeros((0, 4), dtype=np.float32),
        crowd_labels=np.zeros(0, dtype=np.int64),
    )
