"""Where the images of a YOLO split lie, and their labels, in the layouts that tools write."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from quantpipe.data.faults import Findings
from quantpipe.data.listing import ImageLister, is_pattern
from quantpipe.data.safe_paths import name_inside, resolve_inside, shorter_name
from quantpipe.data.yolo_description import stated
from quantpipe.errors import DataError
from quantpipe.given_files import read_text

Split = Literal["train", "val"]
_ALIASES = {"train": ("train", "train2017"), "val": ("val", "valid", "validation", "val2017")}
_PLACES = ("images/{split}", "{split}/images")
_NO_LABELS = frozenset({"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt"})


class FoundImages(NamedTuple):
    """Images by name, in order, and the folders that were listed whole; named from the root."""

    names: list[str]
    folders: list[str]


def find_images(
    root: Path, split: Split, description: dict[str, Any], findings: Findings
) -> FoundImages:
    """Returns the images of a split: of the folders, lists and patterns that name it.

    Raises:
        DataError: There is no such place, or one that leads out of ``root``.
    """
    place = stated(description, *_ALIASES[split])
    if place is None:
        places: Sequence[object] = [_usual_place(root, split)]
    else:
        places = place if isinstance(place, list) else [place]
    lister = ImageLister(root, findings)
    names: list[str] = []
    folders: list[str] = []
    for each in places:
        names += _at(root, each, description, lister, folders, findings)
    lister.tell_others()
    different = sorted(set(names))
    if len(different) < len(names):
        counts = Counter(names)
        first = next(name for name in different if counts[name] > 1)
        line = f"{len(names) - len(different)} images are named again, the first is {first}"
        findings.tell("named_again", line, len(names) - len(different))
    return FoundImages(different, folders)


def _usual_place(root: Path, split: Split) -> str:
    aliases = _ALIASES[split]
    folders = [place.format(split=alias) for alias in aliases for place in _PLACES]
    lists = [f"{alias}.txt" for alias in aliases]
    for name in (*folders, *lists):
        if (root / name).exists():
            return name
    inner = sorted(path.parent.name for path in root.glob("*/data.yaml"))
    hint = None
    if len(inner) == 1:
        hint = f"there is a data set in {inner[0]}: set data.root={root / inner[0]}"
    elif (root / "images").is_dir():
        hint = "this set has no parts: list the images of each in train.txt and val.txt"
    looked = ", ".join([*folders, *lists])
    raise DataError(f"no images: looked for {looked}", path=root, hint=hint)


def _at(
    root: Path,
    place: object,
    description: dict[str, Any],
    lister: ImageLister,
    folders: list[str],
    findings: Findings,
) -> list[str]:
    """Returns the image names at a place that ``data.yaml`` or the layout names."""
    if isinstance(place, str) and place.startswith("../"):
        place = place.removeprefix("../")  # some exporters write paths as seen from a subfolder
    name = name_inside(root, place)
    if is_pattern(name) and not (root / name).exists():
        found = lister.matching(name)
        if not found:
            raise DataError(f"no image matches {name!r}", path=root)
        return found
    name = _existing(root, name, description, findings)
    path = resolve_inside(root, name)
    if path.is_dir():
        folders.append(os.path.normpath(name))
        return lister.below(folders[-1])
    if not path.exists():
        raise DataError(f"there is no folder or list of images {str(place)[:200]!r}", path=root)
    lines = (line.strip() for line in read_text(path, DataError).splitlines())
    return [_listed(root, line, description, findings) for line in lines if line]


def _existing(root: Path, name: str, description: dict[str, Any], findings: Findings) -> str:
    """Returns the first reading of a name under which there is something, or else the name.

    Some tools name files from a base folder (``path``), others from above the set: Roboflow with
    the name of the set before it, CVAT with ``data/``.
    """
    if os.path.lexists(root / name):
        return name
    base = description.get("path")
    if isinstance(base, str) and _stays(base) and os.path.lexists(root / base / name):
        return f"{base}/{name}"
    shorter = shorter_name(root, name)
    if shorter is None:
        return name
    findings.tell("shortened_names", f"{name}: there is none, but {shorter}, which is read")
    return shorter


def _stays(base: str) -> bool:
    return not (base.startswith(("/", "\\")) or ".." in base or ":" in base)


def _listed(root: Path, line: str, description: dict[str, Any], findings: Findings) -> str:
    """Returns the name that a line of a list means."""
    name = name_inside(root, line.removeprefix("./"))
    if "\\" in line and "\\" not in name:
        findings.mend("mended_names", f"{line}: read with slashes, as {name}")
    return _existing(root, name, description, findings)


def label_path(name: str, root: Path) -> Path:
    """Returns where the labels of an image lie: the last ``images`` in its name says where."""
    return resolve_inside(root, label_name(name))


def label_name(name: str) -> str:
    """Returns the name of an image's label file: as :func:`label_path`, not looked up."""
    head, separator, file = name.rpartition("/")
    parts = head.split("/") if separator else []
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return "/".join([*parts, _stem(file) + ".txt"])


def tell_lonely_labels(root: Path, found: FoundImages, findings: Findings) -> None:
    """Tells of the label files beside listed folders that belong to no image.

    Raises:
        DataError: In strict mode, where there is one.
    """
    expected = {label_name(name) for name in found.names}
    for folder in found.folders:
        top = (root / label_name(f"{folder}/x.jpg")).parent
        for name in _text_files(root, top):
            if name not in expected:
                findings.mend("labels_without_image", f"label file {name} belongs to no image")


def _stem(file: str) -> str:
    """A string operation, as there is one of these for every image."""
    stem, dot, _ = file.rpartition(".")
    return stem if dot and stem.strip(".") else file


def _text_files(root: Path, top: Path) -> Iterable[str]:
    for parent, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(parent).relative_to(root)
        for file in sorted(files):
            if file.endswith(".txt") and not _is_about_the_set(file):
                yield file if str(below) == "." else f"{below}/{file}"


def _is_about_the_set(file: str) -> bool:
    lower = file.lower()
    return lower in _NO_LABELS or lower.startswith(("readme", "."))
