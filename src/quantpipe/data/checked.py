"""A data set without the images that are damaged inside, found before the first use of any."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from quantpipe.data.contents import read_contents
from quantpipe.data.damage import found_damage
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.faults import require_contents, too_many_bad


class Checked(NamedTuple):
    """A data set, and the SHA-256 of each image's bytes."""

    dataset: DetectionDataset
    digests: list[str]


def without_damaged(
    dataset: DetectionDataset, memo: Path | None, *, max_bad_images: int, decode: bool
) -> Checked:
    """Returns the images of a set that can be used, up to a number that cannot.

    Args:
        dataset: As a reader returns it.
        memo: Remembers what was found, see :func:`~quantpipe.data.contents.read_contents`.
        max_bad_images: How many may be left out in all.
        decode: As :func:`~quantpipe.data.damage.found_damage` takes it.

    Raises:
        DataError: More are bad, or nothing is left.
    """
    paths = [record.path for record in dataset.images]
    contents = read_contents(paths, dataset.root, memo, partial(found_damage, decode=decode))
    whole = [index for index, content in enumerate(contents) if not content.damage]
    if len(whole) < len(contents):
        bad = {
            str(path.relative_to(dataset.root)): content.damage
            for path, content in zip(paths, contents, strict=True)
            if content.damage
        }
        dataset = _left(dataset, whole, bad, max_bad_images)
    return Checked(dataset, [contents[index].digest for index in whole])


def _left(
    dataset: DetectionDataset, whole: list[int], bad: dict[str, str], allowed: int
) -> DetectionDataset:
    before = dataset.counts.get("bad_images", 0)
    lines = [f"{name} ({damage})" for name, damage in bad.items()]
    if before + len(bad) > allowed:
        raise too_many_bad(lines, allowed, dataset.root, others=before)
    kept = dataset.subset(whole)
    require_contents(kept.counts, f"{len(bad)} damaged, first: {lines[0]}", dataset.root)
    notes = tuple(f"image {name} skipped: {damage}" for name, damage in bad.items())
    counts = {**kept.counts, "bad_images": before + len(bad)}
    return replace(kept, counts=counts, notes=(*notes[:1], *kept.notes, *notes[1:]))
