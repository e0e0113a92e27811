"""YOLO data sets with missing and broken label files and descriptions (rows 18, 22, 23, 25, 26)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from faults.cases import Case, Place, Prepared
from faults.image_cases import encoded

from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.yolo import read_yolo
from quantpipe.errors import DataError

_GOOD = "0 0.5 0.5 0.2 0.2\n"
_DESCRIPTION = "names: [cat, dog]\n"


def yolo_cases() -> Iterator[Case]:
    """All of them."""
    yield from _lines()
    yield from _label_files()
    yield from _descriptions()
    yield from _escapes()


def _case(
    row: int,
    name: str,
    *,
    labels: str | bytes | None = _GOOD,
    description: str | bytes = _DESCRIPTION,
    error: type[DataError] | None = DataError,
    says: tuple[str, ...] = ("root",),
    accepts: Callable[[DetectionDataset], str | None] = lambda dataset: None,
    strict: bool = False,
    allow_unlabelled: bool = False,
    arrange: Callable[[Place], object] = lambda at: None,
) -> Case:
    def prepare(at: Place) -> Prepared:
        for kind in ("images", "labels"):
            (at.root / kind / "train").mkdir(parents=True)
        for stem, content in (("a", _GOOD), ("b", labels)):
            (at.root / "images" / "train" / f"{stem}.png").write_bytes(encoded("png"))
            if content is not None:
                path = at.root / "labels" / "train" / f"{stem}.txt"
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        text = description.encode() if isinstance(description, str) else description
        (at.root / "data.yaml").write_bytes(text.replace(b"{outside}", bytes(at.outside.folder)))
        arrange(at)
        return lambda: read_yolo(
            at.root,
            "train",
            max_bad_images=0,
            strict=strict,
            allow_unlabelled=allow_unlabelled,
        )

    return Case(
        row=row, name=f"YOLO: {name}", prepare=prepare, error=error, says=says, accepts=accepts
    )


def _counted(kind: str, number: int) -> Callable[[DetectionDataset], str | None]:
    def accepts(dataset: DetectionDataset) -> str | None:
        found = dataset.counts.get(kind, 0)
        return None if found == number else f"{kind} is {found}, not {number}"

    return accepts


def _lines() -> Iterator[Case]:
    for name, line, kind in (
        ("a word", "cat 0.5 0.5 0.2 0.2", "dropped"),
        ("too few numbers", "0 0.5 0.5 0.2", "dropped"),
        ("too many numbers", "0 0.5 0.5 0.2 0.2 0.9", "dropped"),
        ("commas", "0,0.5,0.5,0.2,0.2", "dropped"),
        ("NaN", "0 nan 0.5 0.2 0.2", "dropped"),
        ("NaN width", "0 0.5 0.5 nan 0.2", "dropped"),
        ("infinite", "0 0.5 0.5 inf 0.2", "dropped"),
        ("no width", "0 0.5 0.5 0 0.2", "dropped"),
        ("negative height", "0 0.5 0.5 0.2 -0.2", "dropped"),
        ("outside", "0 1.5 0.5 0.2 0.2", "dropped"),
        ("an outline with NaN", "0 0.1 0.1 nan 0.2 0.3 0.3", "dropped"),
        ("an outline of a line", "0 0.1 0.1 0.1 0.2 0.1 0.3", "dropped"),
        ("past the border", "0 0.95 0.5 0.2 0.2", "clipped"),
        ("in pixels", "0 20 12 10 10", "dropped"),
        ("an outline past the border", "0 0.5 0.5 1.5 0.5 1.5 0.9", "clipped"),
    ):
        mended = _counted(kind, 1)
        yield _case(22, f"line {name}", labels=line, error=None, accepts=mended)
        yield _case(22, f"line {name}, strict", labels=line, strict=True)
    for label in ("2", "-1", "0.5", "nan", "inf", "1e30"):
        yield _case(
            23, f"class {label}", labels=f"{label} 0.5 0.5 0.2 0.2", says=("b.txt", "class")
        )


def _label_files() -> Iterator[Case]:
    yield _case(25, "label file missing", labels=None, says=("b.txt", "1 label files missing"))
    yield _case(
        25,
        "label file missing, allowed",
        labels=None,
        allow_unlabelled=True,
        error=None,
        accepts=_counted("background_images", 1),
    )
    for strict in (False, True):
        yield _case(
            25,
            f"label file empty, strict {strict}",
            labels="",
            strict=strict,
            error=None,
            accepts=_counted("background_images", 1),
        )
    yield _case(
        25,
        "label file a link to nothing",
        labels=None,
        arrange=lambda at: (at.root / "labels/train/b.txt").symlink_to("none"),
        says=("b.txt", "a link that leads nowhere"),
    )
    yield _case(
        25,
        "list of images a pipe",
        description=f"{_DESCRIPTION}train: list.txt\n",
        arrange=lambda at: os.mkfifo(at.root / "list.txt"),
        says=("list.txt",),
    )
    for name, arrange in {
        "a folder": lambda at: (at.root / "labels/train/b.txt").mkdir(),
        "a link to itself": lambda at: (at.root / "labels/train/b.txt").symlink_to("b.txt"),
        "a pipe": lambda at: os.mkfifo(at.root / "labels/train/b.txt"),
    }.items():
        yield _case(25, f"label file {name}", labels=None, arrange=arrange, says=("b.txt",))
    yield _case(25, "label file not text", labels=b"\xff\xfe\x00 0.5", says=("b.txt",))
    yield _case(
        25,
        "no label folder",
        labels=None,
        arrange=lambda at: _remove(at, "labels"),
        says=("a.txt",),
    )
    yield _case(18, "no images", arrange=lambda at: _remove(at, "images"))
    everything_empty = lambda at: (at.root / "labels/train/a.txt").write_text("")  # noqa: E731
    yield _case(18, "no boxes", labels="", arrange=everything_empty, says=("empty",))


def _remove(at: Place, folder: str) -> None:
    (at.root / folder).rename(at.root / "elsewhere")


def _descriptions() -> Iterator[Case]:
    texts: dict[str, str | bytes] = {
        "no mapping": "- a\n",
        "a text": "names\n",
        "not YAML": "names: [a\n",
        "an object of Python": "names: !!python/object/apply:os.system ['touch {outside}/canary']",
        "a name of Python": "names: !!python/name:os.system\n",
        "a module of Python": "names: !!python/module:antigravity\n",
        "no names": "nc: 2\n",
        "names null": "names: null\n",
        "names a number": "names: 3\n",
        "no name at all": "names: []\n",
        "names with a gap": "names: {0: cat, 2: dog}\n",
        "names by text": "names: {a: cat, b: dog}\n",
        "another count": "names: [cat, dog]\nnc: 3\n",
        "count a text": "names: [cat, dog]\nnc: two\n",
        "deep": "names: " + "[" * 20_000,
        "deep mappings": "names: " + "{a: " * 20_000,
        "billion laughs": _laughs(),
        "not UTF-8": b"names: [\xff\xfe]\n",
        "control characters": b"names: [\x00\x01]\n",
        "split a number": _DESCRIPTION + "train: 3\n",
        "split null in a list": _DESCRIPTION + "train: [null]\n",
        "split not there": _DESCRIPTION + "train: nowhere\n",
    }
    for name, text in texts.items():
        yield _case(23, f"description {name}", description=text)


def _laughs() -> str:
    lines = ["a0: &a0 [cat, cat]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    return "\n".join(lines) + "\nnames: *a39\n"


def _escapes() -> Iterator[Case]:
    for name, split in {
        "that climbs": "../../outside",
        "that climbs later": "images/../../outside",
        "absolute": "{outside}",
        "an absolute file": "{outside}/secret",
        "linked": "linked",
        "a linked list": "linked/secret",
    }.items():
        yield _case(
            26,
            f"split {name}",
            description=f"{_DESCRIPTION}train: '{split}'\n",
            arrange=lambda at: (at.root / "linked").symlink_to(at.outside.folder),
        )
    for name, line in {
        "that climbs": "../../outside/secret",
        "absolute": "{outside}/secret",
        "linked": "linked/secret",
    }.items():

        def arrange(at: Place, line: str = line) -> None:
            (at.root / "linked").symlink_to(at.outside.folder)
            (at.root / "list.txt").write_text(line.format(outside=at.outside.folder) + "\n")

        yield _case(
            26, f"listed {name}", description=f"{_DESCRIPTION}train: list.txt\n", arrange=arrange
        )
    for name, link in {
        "an image": "images/train/c.png",
        "labels": "labels/train/b.txt",
    }.items():

        def linked(at: Place, link: str = link) -> None:
            (at.root / link).symlink_to(at.outside.secret)

        yield _case(26, f"{name} linked outside", labels=None, arrange=linked)
