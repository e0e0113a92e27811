"""Hostile files given to the command line: the same faults, told in one line with their code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from faults.cases import Place
from faults.coco_cases import annotation, document
from faults.commands import Command
from faults.image_cases import encoded
from faults.pickle_cases import Payload
from faults.tiny_pipeline import OVERRIDES

# Some of these make data and train before they come to the file.
_LONGEST = 30.0
_STEPS = {
    "train_repopt.checkpoint": "train_repopt",
    "train_repopt.scales": "train_repopt",
    "calibrate.from_checkpoint": "train_repopt,calibrate",
    "partial_quant.plan_file": "train_repopt,calibrate,sensitivity,partial_quant",
    "partial_quant.table_file": "train_repopt,calibrate,sensitivity,partial_quant",
}
_SHORT = ("train_repopt.epochs=1", "train_repopt.search.epochs=1")


def artifact_commands() -> Iterator[Command]:
    """Every setting that names an artifact, with a file that is none."""
    for key in ("train_repopt.checkpoint", "train_repopt.scales", "calibrate.from_checkpoint"):
        yield _artifact(key, "code", _save_payload, "system', which no checkpoint")
        yield _artifact(key, "a cut archive", _save_cut, "file")
    for key in ("train_repopt.checkpoint", "train_repopt.scales"):
        yield _artifact(key, "nothing", lambda at, path: path.write_bytes(b""), "file")
        yield _artifact(key, "a picture", lambda at, path: path.write_bytes(encoded("png")), "file")
    for key in ("partial_quant.plan_file", "partial_quant.table_file"):
        yield _artifact(key, "nothing", lambda at, path: path.write_bytes(b""), "file")
        yield _artifact(key, "NaN", lambda at, path: path.write_text("stem nan nan\n"), "file")
    for key in _STEPS:
        yield _artifact(key, "no file", lambda at, path: None, "no such file")


def _artifact(key: str, name: str, write: Callable[[Place, Path], object], says: str) -> Command:
    def prepare(at: Place) -> tuple[str, ...]:
        path = at.root / "file"
        write(at, path)
        return (*OVERRIDES, *_SHORT, f"pipeline.steps=[{_STEPS[key]}]", f"{key}={path}")

    return Command(
        row=27 if name in ("code", "a cut archive") else 31,
        name=f"{key} is {name}",
        prepare=prepare,
        code=4,
        says=(says,),
        longest=_LONGEST,
        writes_nothing=name == "no file",
    )


def _save_payload(at: Place, path: Path) -> None:
    torch.save({"model": Payload(os.system, (f"touch {at.outside.canary}",))}, path)


def _save_cut(at: Place, path: Path) -> None:
    torch.save({"model": {"w": torch.ones(100)}}, path)
    path.write_bytes(path.read_bytes()[:-200])


def data_commands() -> Iterator[Command]:
    """Data sets that are refused when the first step reads them."""
    other = [{"id": 90, "name": "cat"}, {"id": 6, "name": "dog"}]
    climbing = {"id": 7, "file_name": "../../../outside/secret", "width": 40, "height": 24}
    for row, name, content, says in (
        (18, "an empty set", document(annotations=[]), "is empty"),
        (19, "an image that is not there", document(images=[_image("gone.png")]), "gone.png"),
        (23, "an unknown category", document(annotations=[annotation(category_id=1)]), "category"),
        (23, "no document", [], "not a COCO document"),
        (26, "a name that climbs", document(images=[climbing]), "leaves the image folder"),
        (23, "other classes to validate", document(categories=other, annotations=[annotation()]),
         "has the classes"),
    ):  # fmt: skip
        yield _data(row, name, content, says)


def _image(name: str) -> dict[str, object]:
    return {"id": 7, "file_name": name, "width": 40, "height": 24}


def _data(row: int, name: str, content: object, says: str) -> Command:
    def prepare(at: Place) -> tuple[str, ...]:
        for split, written in (("train", document()), ("val", content)):
            (at.root / "data" / split).mkdir(parents=True)
            for file in ("a.png", "b.png"):
                (at.root / "data" / split / file).write_bytes(encoded("png"))
            path = at.root / "data" / "annotations" / f"instances_{split}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(written))
        kept = [text for text in OVERRIDES if not text.startswith("data.")]
        return (*kept, "data=coco", f"data.root={at.root / 'data'}")

    return Command(
        row=row,
        name=f"data set with {name}",
        prepare=prepare,
        code=3,
        says=(says,),
        longest=_LONGEST,
        writes_nothing=False,
    )
