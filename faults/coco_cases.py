"""COCO data sets with wrong boxes, ids, files and documents (rows 18, 19, 22 to 24, 26)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from faults.cases import Case, Place, Prepared
from faults.image_cases import encoded

from quantpipe.data.coco import read_coco
from quantpipe.data.dataset import DetectionDataset
from quantpipe.errors import DataError

_NAN, _INFINITE = float("nan"), float("inf")
_WIDTH, _HEIGHT = 40, 24

Accepts = Callable[[DetectionDataset], str | None]


def coco_cases() -> Iterator[Case]:
    """All of them."""
    yield from _boxes()
    yield from _ids()
    yield from _documents()
    yield from _file_names()
    yield from _bad_images()
    yield from _crowds()


def document(**changes: Any) -> dict[str, Any]:
    """Two images of a box each; ``changes`` replace parts."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": _WIDTH, "height": _HEIGHT},
            {"id": 3, "file_name": "b.png", "width": _WIDTH, "height": _HEIGHT},
        ],
        "annotations": [annotation(), annotation(id=2, image_id=3)],
        "categories": [{"id": 90, "name": "cat"}, {"id": 5, "name": "dog"}],
        **changes,
    }


def annotation(**changes: Any) -> dict[str, Any]:
    """A whole one; a field that is ``...`` is left out."""
    whole = {
        "id": 1,
        "image_id": 7,
        "category_id": 90,
        "bbox": [10, 5, 20, 10],
        "area": 200,
        "iscrowd": 0,
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not ...}


def _case(
    row: int,
    name: str,
    content: object,
    *,
    error: type[DataError] | None = DataError,
    says: tuple[str, ...] = ("a.json",),
    accepts: Accepts = lambda dataset: None,
    strict: bool = False,
    max_bad_images: int = 0,
    arrange: Callable[[Place], object] = lambda at: None,
) -> Case:
    """Text and bytes are written as they are, anything else as JSON."""

    def prepare(at: Place) -> Prepared:
        images = at.root / "images"
        images.mkdir()
        for file in ("a.png", "b.png"):
            (images / file).write_bytes(encoded("png"))
        arrange(at)
        path = at.root / "a.json"
        given = content(at) if callable(content) else content
        raw = given if isinstance(given, bytes) else json.dumps(given).encode()
        path.write_bytes(raw)
        return lambda: read_coco(images, path, max_bad_images=max_bad_images, strict=strict)

    return Case(row=row, name=name, prepare=prepare, error=error, says=says, accepts=accepts)


def _counts(**expected: int) -> Accepts:
    """The counts must be these, and every box must lie in its image."""

    def accepts(dataset: DetectionDataset) -> str | None:
        found = {key: dataset.counts.get(key, 0) for key in expected}
        if found != expected:
            return f"counts {found}, not {expected}"
        for record in dataset.images:
            for boxes in (record.boxes, record.crowd_boxes):
                if len(boxes) and not (
                    (boxes[:, 2:] > boxes[:, :2]).all()
                    and (boxes >= 0).all()
                    and (boxes <= [record.width, record.height] * 2).all()
                ):
                    return f"keeps a box {boxes.tolist()}"
        return None

    return accepts


_DROPPED: dict[str, object] = {
    "of no width": [10, 5, 0, 10],
    "of no height": [10, 5, 20, 0],
    "of negative width": [10, 5, -20, 10],
    "of negative height": [10, 5, 20, -10],
    "left of the image": [-50, 5, 20, 10],
    "right of the image": [40, 5, 20, 10],
    "above the image": [10, -50, 20, 10],
    "below the image": [10, 24, 20, 10],
    "NaN": [_NAN, 5, 20, 10],
    "NaN width": [10, 5, _NAN, 10],
    "infinite": [10, 5, _INFINITE, 10],
    "minus infinite": [-_INFINITE, 5, 20, 10],
    "of huge numbers": [10, 5, 10**400, 10],
    "of words": ["ten", "5", "20", "10"],
    "of booleans": [True, True, True, True],
    "of three numbers": [10, 5, 20],
    "of five numbers": [10, 5, 20, 10, 1],
    "of lists": [[10], [5], [20], [10]],
    "empty": [],
    "null": None,
    "a number": 5,
    "an object": {"x": 1},
    "missing": ...,
}
_CLIPPED: dict[str, object] = {
    "past the left": [-5, 5, 20, 10],
    "past the right": [30, 5, 20, 10],
    "past the top": [10, -5, 20, 10],
    "past the bottom": [10, 20, 20, 10],
    "around the image": [-1000, -1000, 3000, 3000],
    "of 1e300": [0, 0, 1e300, 1e300],
}


def _boxes() -> Iterator[Case]:
    for kind, boxes in (("dropped", _DROPPED), ("clipped", _CLIPPED)):
        for name, bbox in boxes.items():
            content = document(annotations=[annotation(bbox=bbox), annotation(id=2, image_id=3)])
            kept = 1 if kind == "dropped" else 2
            mended = _counts(**{kind: 1, "boxes": kept})
            yield _case(22, f"box {name}", content, error=None, accepts=mended)
            yield _case(22, f"box {name}, strict", content, strict=True, says=("a.json", kind))
    for name, bbox in (("within rounding", [-0.4, 5, 20, 10]), ("whole", [0, 0, 40, 24])):
        content = document(annotations=[annotation(bbox=bbox)])
        sound = _counts(clipped=0, dropped=0, boxes=1)
        yield _case(22, f"box {name}, strict", content, strict=True, error=None, accepts=sound)


def _ids() -> Iterator[Case]:
    for name, changes, kind in (
        ("annotation id 0", {"id": 0}, "mended_ids"),
        ("annotation id twice", {"id": 2}, "mended_ids"),
        ("annotation id missing", {"id": ...}, "mended_ids"),
        ("annotation id text", {"id": "1"}, "mended_ids"),
        ("annotation id null", {"id": None}, "mended_ids"),
        ("annotation id huge", {"id": 10**30}, "mended_ids"),
        ("annotation id fraction", {"id": 1.5}, "mended_ids"),
        ("unknown image", {"image_id": 99}, "unknown_images"),
        ("image null", {"image_id": None}, "unknown_images"),
        ("image a word", {"image_id": "seven"}, "unknown_images"),
        ("image text", {"image_id": "7"}, "mended_ids"),
        ("image a whole fraction", {"image_id": 7.0}, "mended_ids"),
        ("category text", {"category_id": "90"}, "mended_ids"),
        ("category a whole fraction", {"category_id": 90.0}, "mended_ids"),
        ("box of texts", {"bbox": ["10", "5", "20", "10"]}, "mended_boxes"),
        ("image list", {"image_id": [7]}, "unknown_images"),
        ("no iscrowd", {"iscrowd": ...}, "mended_fields"),
        ("iscrowd 2", {"iscrowd": 2}, "mended_fields"),
        ("iscrowd text", {"iscrowd": "0"}, "mended_fields"),
        ("iscrowd list", {"iscrowd": [0]}, "mended_fields"),
        ("no area", {"area": ...}, "mended_fields"),
        ("area NaN", {"area": _NAN}, "mended_fields"),
        ("area negative", {"area": -1}, "mended_fields"),
        ("area text", {"area": "200"}, "mended_fields"),
        ("area infinite", {"area": _INFINITE}, "mended_fields"),
        ("area huge", {"area": 10**400}, "mended_fields"),
    ):
        second = annotation(id=2, image_id=3)
        content = document(annotations=[annotation(**changes), second])
        mended = _counts(**{kind: 1})
        yield _case(23, name, content, error=None, accepts=mended)
        yield _case(23, f"{name}, strict", content, strict=True)
    for name, category in (
        ("unknown", 6), ("missing", ...), ("null", None), ("a word", "cat"), ("a fraction", 5.5),
        ("huge", 10**30), ("a list", [90]), ("a boolean", True),
    ):  # fmt: skip
        content = document(annotations=[annotation(category_id=category)])
        yield _case(23, f"category {name}", content, says=("a.json", "unknown category"))
    whole = document()
    for key, label in (("images", "image"), ("categories", "category")):
        entries = whole[key]
        for name, identity in (
            ("twice", entries[1]["id"]), ("null", None), ("a word", "x"), ("a boolean", True),
            ("a fraction", 7.5), ("huge", 10**30), ("a list", [7]), ("an object", {}),
        ):  # fmt: skip
            content = document(**{key: [{**entries[0], "id": identity}, entries[1]]})
            yield _case(23, f"{label} id {name}", content)


def _documents() -> Iterator[Case]:
    empty: dict[str, dict[str, list[Any]]] = {
        "no images": {"images": []},
        "no annotations": {"annotations": []},
        "no categories": {"categories": []},
        "no image with a box": {"annotations": [annotation(bbox=[0, 0, 0, 0])]},
    }
    for name, changes in empty.items():
        yield _case(18, name, document(**changes))
    for key in ("images", "annotations", "categories"):
        for name, value in (
            ("null", None), ("a text", "x"), ("an object", {"a": 1}), ("of numbers", [1]),
            ("of lists", [[1]]), ("of nulls", [None]),
        ):  # fmt: skip
            yield _case(23, f"{key} {name}", document(**{key: value}))
        without = {k: v for k, v in document().items() if k != key}
        yield _case(23, f"without {key}", without)
    unnamed: dict[str, dict[str, object]] = {
        "null": {"name": None},
        "missing": {},
        "a number": {"name": 3},
        "a list": {"name": ["cat"]},
    }
    for name, naming in unnamed.items():
        yield _case(23, f"category name {name}", document(categories=[{"id": 90, **naming}]))
    text = json.dumps(document()).encode()
    files: dict[str, bytes] = {
        "empty": b"",
        "null": b"null",
        "a list": b"[]",
        "a number": b"3",
        "deep lists": b"[" * 200_000,
        "deep objects": b'{"a":' * 200_000,
        "deep inside": b'{"images": ' + b"[" * 200_000,
        "a number of many digits": b'{"images": ' + b"9" * 200_000 + b"}",
        "not UTF-8": b"\xff\xfe{}",
        "UTF-16": json.dumps([]).encode("utf-16"),
        "YAML": b"images:\n- a.png\n",
        "an open text": b'{"images": "',
        "trailing": text + b"}",
        **{f"cut at {part} %": text[: len(text) * part // 100] for part in range(5, 100, 10)},
    }
    for name, content in files.items():
        yield _case(23, f"document {name}", content)
    for name, arrange in (
        ("is a folder", lambda at: (at.root / "x.json").mkdir()),
        ("is not there", lambda at: None),
        ("is a link to itself", lambda at: (at.root / "x.json").symlink_to(at.root / "x.json")),
    ):

        def prepare(at: Place, arrange: Callable[[Place], object] = arrange) -> Prepared:
            arrange(at)
            (at.root / "images").mkdir()
            path = at.root / "x.json"
            return lambda: read_coco(at.root / "images", path, max_bad_images=0, strict=False)

        yield Case(
            row=23,
            name=f"annotation file {name}",
            prepare=prepare,
            error=DataError,
            says=("x.json",),
        )


_ESCAPES: dict[str, str] = {
    "that climbs": "../../outside/secret",
    "that climbs later": "sub/../../../outside/secret",
    "absolute": "{outside}/secret",
    "linked": "link.png",
    "in a linked folder": "linked/secret",
    "linked twice": "chain.png",
    "with backslashes": "..\\..\\outside\\secret",
    "of a drive": "C:\\secret",
    "of a share": "\\\\host\\share\\secret",
    "of the process": "/proc/self/environ",
    "of a device": "/dev/zero",
    "with a zero byte": "a.png\0.txt",
    "empty": "",
}


def _file_names() -> Iterator[Case]:
    for name, file in _ESCAPES.items():
        for size in (_WIDTH, None):

            def content(at: Place, file: str = file, size: int | None = size) -> object:
                entry = {"id": 7, "file_name": file.format(outside=at.outside.folder)}
                entry |= {"width": size, "height": _HEIGHT} if size else {}
                return document(images=[entry], annotations=[annotation()])

            sized = "" if size else ", no size"
            yield _case(26, f"file name {name}{sized}", content, arrange=_link, says=("root",))
    nameless: dict[str, dict[str, object]] = {
        "null": {"file_name": None},
        "a number": {"file_name": 3},
        "a list": {"file_name": ["a.png"]},
        "missing": {},
    }
    sizes = {"width": _WIDTH, "height": _HEIGHT}
    for name, naming in nameless.items():
        images = [{"id": 7, **naming, **sizes}]
        yield _case(26, f"file name {name}", document(images=images), says=("root",))
    for name, file in (("a pipe", "pipe"), ("a folder", "folder"), ("gone", "gone.png"),
                       ("of 5000 letters", "a" * 5000), ("a socket", "socket")):  # fmt: skip
        named = document(images=[{"id": 7, "file_name": file, **sizes}], annotations=[annotation()])
        says = ("root",) if len(file) > 1000 else ("a.json", file)
        yield _case(26, f"file name {name}", named, arrange=_link, says=says)


def _link(at: Place) -> None:
    images = at.root / "images"
    (images / "link.png").symlink_to(at.outside.secret)
    (images / "chain.png").symlink_to(images / "link.png")
    (images / "linked").symlink_to(at.outside.folder)
    (images / "folder").mkdir()
    os.mkfifo(images / "pipe")
    os.mknod(images / "socket", 0o140600)


def _bad_images() -> Iterator[Case]:
    """Row 19: listed, or left out up to a number."""

    def spoil(at: Place) -> None:
        (at.root / "images" / "b.png").write_bytes(encoded("png")[:50])

    yield _case(19, "a bad image", document(), arrange=spoil, says=("1 bad images", "b.png"))
    skipped = _counts(bad_images=1, images=1)
    yield _case(
        19,
        "a bad image, one allowed",
        document(),
        arrange=spoil,
        max_bad_images=1,
        error=None,
        accepts=skipped,
    )
    for name, size in (("width", (41, 24)), ("height", (40, 25)), ("both", (24, 40)),
                       ("words", ("wide", "24")), ("zero", (0, 0)),
                       ("negative", (-40, -24))):  # fmt: skip
        entry = {"id": 7, "file_name": "a.png", "width": size[0], "height": size[1]}
        content = document(images=[entry], annotations=[annotation()])
        yield _case(19, f"annotated with another {name}", content, says=("a.json", "a.png"))


def _crowds() -> Iterator[Case]:
    crowd = annotation(id=2, image_id=3, iscrowd=1)
    apart = _counts(boxes=1, crowd_boxes=1)
    yield _case(
        24, "a crowd", document(annotations=[annotation(), crowd]), error=None, accepts=apart
    )
    yield _case(24, "only crowds", document(annotations=[crowd]))
