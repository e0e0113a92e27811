"""Text in every encoding and data sets in the layouts of tools (rows 36 and 37).

Each must be read as the plain one is, to the last object, or be refused with what to do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from faults.cases import Case, Place, Prepared
from faults.coco_cases import annotation, document
from faults.image_cases import encoded

from quantpipe.data.coco import read_coco
from quantpipe.data.coco_layout import find_coco_split
from quantpipe.data.yolo import read_yolo
from quantpipe.errors import ArtifactError, DataError, QuantpipeError
from quantpipe.quantization.sensitivity.released_table import read_released_text

_IMAGE = b"image"  # stands for the content of one
_TWO = "0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.2 0.2\n"
_NAMES = "names: [größe, 二]\n"
_TRAIN = "images/train/a.png", "images/train/b.png"

Files = Mapping[str, str | bytes]
Read = Callable[[Path], Any]
Accepts = Callable[[Any], str | None]


def layout_cases() -> Iterator[Case]:
    """All of them."""
    yield from _encodings()
    yield from _yolo_layouts()
    yield from _coco_layouts()


def _case(
    row: int,
    name: str,
    files: Files,
    read: Read,
    accepts: Accepts = lambda found: None,
    *,
    error: type[QuantpipeError] | None = None,
    says: tuple[str, ...] = (),
    arrange: Callable[[Place], object] = lambda at: None,
) -> Case:
    def prepare(at: Place) -> Prepared:
        for place, content in files.items():
            path = at.root / place
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = content.encode() if isinstance(content, str) else content
            path.write_bytes(encoded("png") if raw == _IMAGE else raw)
        arrange(at)
        return lambda: read(at.root)

    return Case(row=row, name=name, prepare=prepare, error=error, says=says, accepts=accepts)


def _holds(images: int, boxes: int, **told: int) -> Accepts:
    """So many images and boxes, and what was told besides."""
    kinds = {"images", "boxes", "background_images"}

    def accepts(dataset: Any) -> str | None:
        if (dataset.counts["images"], dataset.counts["boxes"]) != (images, boxes):
            return f"holds {dict(dataset.counts)}"
        others = {k: count for k, count in dataset.counts.items() if count and k not in kinds}
        return None if others == told else f"tells {others}"

    return accepts


def _yolo(root: Path) -> object:
    return read_yolo(root, "train", max_bad_images=0, strict=False, allow_unlabelled=False)


def _coco(root: Path) -> object:
    return read_coco(*find_coco_split(root, "train"), max_bad_images=0, strict=False)


def _ranking(root: Path) -> object:
    return [row.name for row in read_released_text(root / "ranking.txt").rows]


_ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, the other end first": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "lines of Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "lines of Windows with a mark": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    "lines of an old Macintosh": lambda text: text.replace("\n", "\r").encode(),
    "no end of the last line": lambda text: text.rstrip("\n").encode(),
}
_TEXTS: dict[str, tuple[str, str, Read, Accepts, type[QuantpipeError]]] = {
    "labels": ("labels/train/a.txt", _TWO, _yolo, _holds(2, 4), DataError),
    "a description": (
        "data.yaml", f"{_NAMES}train: list.txt\n", _yolo, _holds(2, 4), DataError,
    ),
    "a list of images": ("list.txt", "\n".join(_TRAIN), _yolo, _holds(2, 4), DataError),
    "a COCO file": (
        "annotations/instances_train.json", json.dumps(document()), _coco, _holds(2, 2), DataError,
    ),
    "a ranking": (
        "ranking.txt", "neck 0.4 0.25\nstem 0.6 0.5\n", _ranking,
        lambda names: None if sorted(names) == ["neck", "stem"] else f"ranks {names}",
        ArtifactError,
    ),
}  # fmt: skip


def _encodings() -> Iterator[Case]:
    plain: dict[str, str | bytes] = {
        "data.yaml": f"{_NAMES}train: list.txt\n",
        "list.txt": "\n".join(_TRAIN),
        **dict.fromkeys((*_TRAIN, "train/a.png", "train/b.png"), _IMAGE),
        **dict.fromkeys(("labels/train/a.txt", "labels/train/b.txt"), _TWO),
    }
    for kind, (place, text, read, accepts, error) in _TEXTS.items():
        for name, encode in _ENCODINGS.items():
            yield _case(36, f"{kind} in {name}", {**plain, place: encode(text)}, read, accepts)
        for name, content, says in (
            ("Latin-1", text.encode() + b"\n\xe9 ", "is not UTF-8 text: byte 0xe9"),
            ("a cut UTF-16", text.encode("utf-16")[:-1], "is not UTF-16"),
        ):
            files = {**plain, place: content}
            yield _case(36, f"{kind} in {name}", files, read, error=error, says=(says,))


def _pairs(*names: str, images: str, labels: str) -> dict[str, str | bytes]:
    """Images in one folder, labels in another."""
    made: dict[str, str | bytes] = {f"{images}/{name}.png": _IMAGE for name in names}
    return made | {f"{labels}/{name}.txt": _TWO for name in names}


def _yolo_layouts() -> Iterator[Case]:
    roboflow = _pairs("a", "b", images="train/images", labels="train/labels")
    beside = _pairs("a", "b", images="obj_train_data", labels="obj_train_data")
    split = _pairs("a", "b", images="images/train", labels="labels/train")
    flat = _pairs("a", "b", images="images", labels="labels")
    listed = "data/obj_train_data/a.png\ndata/obj_train_data/b.png\n"
    sets: dict[str, tuple[Files, Accepts]] = {
        "of Roboflow": (
            {**roboflow, "data.yaml": "train: set/train/images\nnames: [on, 'no']\n"},
            _holds(2, 4, shortened_names=1),
        ),
        "of Roboflow, seen from a folder inside": (
            {**roboflow, "data.yaml": "train: ../train/images\nnames: [on, off]\n"},
            _holds(2, 4),
        ),
        "of CVAT": (
            {
                **beside,
                "obj.names": "a\nb\n",
                "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n",
                "train.txt": listed,
            },
            _holds(2, 4, shortened_names=3),
        ),
        "with names of Windows": (
            {**flat, "classes.txt": "a\nb\n", "train.txt": "images\\a.png\nimages\\b.png\n"},
            _holds(2, 4, mended_names=2),
        ),
        "by a pattern": (
            {**split, "data.yaml": "train: images/*/*.png\nnames: {'0': a, '1': b}\n"},
            _holds(2, 4),
        ),
        "with a copy that is hidden": (
            {
                **split,
                "images/train/.ipynb_checkpoints/a.png": _IMAGE,
                "data.yaml": "names: [a, b]\n",
            },
            _holds(2, 4, hidden_images=1),
        ),
        "with labels of no image": (
            {**split, "labels/train/c.txt": _TWO, "data.yaml": "names: [a, b]\n"},
            _holds(2, 4, labels_without_image=1),
        ),
        "with files that are no images": (
            {**split, "images/train/c.heic": "x", "data.yaml": "names: [a, b]\n"},
            _holds(2, 4, other_files=1),
        ),
        "of poses": (
            {
                **split,
                "labels/train/a.txt": "0 0.5 0.5 0.2 0.2 0.45 0.5 0.5 0.5 0.55 0.5\n",
                "labels/train/b.txt": "0 0.5 0.5 0.2 0.2\n",
                "data.yaml": "names: [a]\nkpt_shape: [3, 2]\n",
            },
            _holds(2, 2),
        ),
    }
    for name, (files, accepts) in sets.items():
        yield _case(37, f"YOLO {name}", files, _yolo, accepts)
    yield _case(
        37,
        "YOLO without parts",
        {**flat, "data.yaml": "names: [a, b]\n"},
        _yolo,
        error=DataError,
        says=("list the images of each in train.txt and val.txt",),
    )
    for name, target, accepts in (
        ("inside", "more", _holds(3, 6)),
        ("that was read before", "images/train", _holds(2, 4, linked_again=1)),
    ):
        files = {**split, "data.yaml": "names: [a, b]\n", "more/c.png": _IMAGE, "more/c.txt": _TWO}
        yield _case(
            37,
            f"YOLO with a link to a folder {name}",
            files,
            _yolo,
            accepts,
            arrange=lambda at, target=target: (at.root / "images/train/z").symlink_to(  # type: ignore[misc]
                at.root / target
            ),
        )


def _coco_layouts() -> Iterator[Case]:
    whole = json.dumps(document())
    without_boxes = json.dumps(
        document(
            annotations=[
                annotation(bbox=..., segmentation=[[10, 5, 30, 5, 30, 15]]),
                annotation(id=2, image_id=3, bbox=None, segmentation=[[1, 1, 9, 1, 9, 9]]),
            ]
        )
    )
    tiny = [annotation(bbox=[0.1, 0.1, 0.5, 0.5]), annotation(id=2, image_id=3, bbox=[0, 0, 1, 1])]
    twice = [{"id": 90, "name": "cell"}, {"id": 5, "name": "cell"}]
    two = ("a.png", "b.png")
    sets: dict[str, tuple[Files, Accepts]] = {
        "of Roboflow": ({"train/_annotations.coco.json": whole}, _holds(2, 2)),
        "of CVAT": ({"annotations/instances_Train.json": whole}, _holds(2, 2)),
        "with one folder of images": ({"annotations/instances_train.json": whole}, _holds(2, 2)),
        "of outlines without boxes": (
            {"annotations/instances_train.json": without_boxes},
            _holds(2, 2, boxes_from_outlines=2),
        ),
        "with two classes of one name": (
            {"annotations/instances_train.json": json.dumps(document(categories=twice))},
            _holds(2, 2, renamed_classes=1),
        ),
    }
    folders = {"of Roboflow": "train", "of CVAT": "images/Train"}
    for name, (files, accepts) in sets.items():
        images = dict.fromkeys((f"{folders.get(name, 'images')}/{file}" for file in two), _IMAGE)
        yield _case(37, f"COCO {name}", {**files, **images}, _coco, accepts)
    for name, content, says in (
        (
            "of normalized boxes",
            json.dumps(document(annotations=tiny)),
            "2 of 2 boxes lie within",
        ),
        ("that is one list", json.dumps([document()]), "the top level is no object"),
    ):
        files = {"annotations/instances_train.json": content, "images/a.png": _IMAGE}
        yield _case(37, f"COCO {name}", files, _coco, error=DataError, says=(says,))
    yield _case(
        37,
        "COCO of CVAT without parts",
        {"annotations/instances_default.json": whole, "images/default/a.png": _IMAGE},
        _coco,
        error=DataError,
        says=("there is instances_default.json: name data.train_annotations",),
    )
