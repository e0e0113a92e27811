"""Lines of label files: boxes, outlines, key points, in any encoding, each at its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantpipe.data.faults import Findings
from quantpipe.data.records import Annotations, FoundImage
from quantpipe.data.yolo_labels import LabelLines
from quantpipe.errors import DataError

BOX = "0 0.5 0.5 0.25 0.5"
POINTS = " 0.45 0.4 2 0.55 0.6 1"


def read(
    folder: Path, *texts: str | bytes, num_more: int = 0, strict: bool = False
) -> tuple[Annotations, Findings]:
    findings = Findings(folder, strict=strict, max_bad_images=0)
    lines = LabelLines(num_classes=2, num_more=num_more, findings=findings, allow_missing=False)
    for owner, text in enumerate(texts):
        path = folder / f"{owner}.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        lines.add(owner, path.name, path)
    images = [FoundImage(n, folder, 100 * (n + 1), 40) for n in range(len(texts))]
    return lines.annotations(images), findings


def test_boxes_are_those_of_their_image(tmp_path: Path) -> None:
    annotations, _ = read(tmp_path, f"{BOX}\n\n1 0.1 0.25 0.2 0.5\n", "", BOX)
    assert annotations.owners.tolist() == [0, 0, 2]
    assert annotations.labels.tolist() == [0, 1, 0]
    np.testing.assert_allclose(
        annotations.boxes,
        [[37.5, 10.0, 62.5, 30.0], [0.0, 0.0, 20.0, 20.0], [112.5, 10.0, 187.5, 30.0]],
    )
    assert annotations.where(1) == f"{tmp_path.name}/0.txt line 3"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_no_object_vanishes_behind_a_mark(tmp_path: Path, encoding: str, newline: str) -> None:
    text = newline.join([BOX] * 3)
    annotations, findings = read(tmp_path, text.encode(encoding))
    assert len(annotations.owners) == 3
    assert not +findings.counts


@pytest.mark.parametrize(("num_more", "points"), [(6, POINTS), (4, " 0.45 0.4 0.55 0.6")])
def test_the_box_of_a_pose_stands_before_its_points(
    tmp_path: Path, num_more: int, points: str
) -> None:
    """The points reach less far than the box, and would be another one if read as an outline."""
    annotations, findings = read(
        tmp_path, f"{BOX}{points}\n{BOX}\n", num_more=num_more, strict=True
    )
    np.testing.assert_allclose(annotations.boxes, [[37.5, 10.0, 62.5, 30.0]] * 2)
    assert not +findings.counts


def test_other_numbers_of_points_are_dropped(tmp_path: Path) -> None:
    annotations, findings = read(tmp_path, f"{BOX}{POINTS} 0.1\n{BOX}", num_more=6)
    assert len(annotations.owners) == 1
    assert findings.counts["dropped"] == 1


def test_an_outline_gives_the_box_around_it(tmp_path: Path) -> None:
    annotations, _ = read(tmp_path, "1 0.25 0.5 0.5 0.25 0.75 1.0")
    np.testing.assert_allclose(annotations.boxes, [[25, 10, 75, 40]])


def test_missing_files_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    findings = Findings(tmp_path, strict=False, max_bad_images=0)
    lines = LabelLines(num_classes=2, num_more=0, findings=findings, allow_missing=False)
    for owner in range(7):
        lines.add(owner, f"{owner}.txt", None)
    with pytest.raises(DataError, match=r"7 label files missing: 0\.txt, .*4\.txt and 2 more; add"):
        lines.annotations([])


def test_another_encoding_is_refused_with_the_byte(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not UTF-8 text: byte 0xe9 at 19, in line 2"):
        read(tmp_path, f"{BOX}\né".encode("latin-1"))
