"""YOLO detection data sets: one text file of normalized boxes beside each image.

Layouts: the paths of a ``data.yaml`` in the root (a folder, a list of folders, or a text file of
image names), ``images/<split>`` with ``labels/<split>``, or ``<split>/images`` with
``<split>/labels``. A line is ``class x y width height`` or a ``class x1 y1 x2 y2 ...`` outline,
both normalized by the upright image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantpipe.data.dataset import DetectionDataset, count_contents
from quantpipe.data.faults import Findings
from quantpipe.data.images import ImageHeader, read_header
from quantpipe.data.records import FoundImage, build_records
from quantpipe.data.safe_paths import resolve_inside
from quantpipe.data.yolo_description import class_names as names_by_label
from quantpipe.data.yolo_description import num_keypoint_values, read_description
from quantpipe.data.yolo_images import (
    Split,
    find_images,
    label_name,
    label_path,
    tell_lonely_labels,
)
from quantpipe.data.yolo_labels import LabelLines
from quantpipe.errors import DataError
from quantpipe.given_files import fault_of, require_folder


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
    require_folder(root, DataError)
    root = root.resolve()
    description = read_description(root)
    findings = Findings(root, strict=strict, max_bad_images=max_bad_images)
    names = names_by_label(class_names, description, root, findings)
    found = find_images(root, split, description, findings)
    tell_lonely_labels(root, found, findings)
    lines = LabelLines(
        num_classes=len(names),
        num_more=num_keypoint_values(description, root),
        findings=findings,
        allow_missing=allow_unlabelled,
    )
    images: list[FoundImage] = []
    for image_id, name in enumerate(found.names, start=1):
        path = resolve_inside(root, name)
        header = _header(path, name, findings)
        if header is not None:
            lines.add(len(images), label_name(name), _labels_of(name, path, root))
            images.append(FoundImage(image_id, path, header.width, header.height))
    records = build_records(images, lines.annotations(images), findings)
    counts = count_contents(records)
    findings.finish(counts)
    return DetectionDataset(
        name=f"{root.name}/{split}",
        root=root,
        images=tuple(records),
        class_names=names,
        category_ids=tuple(range(1, len(names) + 1)),
        counts={**counts, **findings.counts},
        notes=findings.notes,
    )


def _labels_of(name: str, path: Path, root: Path) -> Path | None:
    """Returns the label file of an image: of its name, or else of the file that a link leads to.

    None where there is no such file.

    Raises:
        DataError: There is one by name, but it is a link that leads nowhere.
    """
    names = (name, str(path.relative_to(root)))
    for of_image in names if names[0] != names[1] else names[:1]:
        labels = label_path(of_image, root)
        if labels.exists():
            return labels
        written = root / label_name(of_image)
        if written.is_symlink():
            raise DataError(str(fault_of(written)), path=written)
    return None


def _header(path: Path, name: str, findings: Findings) -> ImageHeader | None:
    try:
        return read_header(path)
    except DataError as error:
        findings.bad_image(name, error.cause)
        return None
