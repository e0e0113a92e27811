from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluation.random_boxes import Truth, objects_in

from quantpipe.data.dataset import DetectionDataset
from quantpipe.evaluation.dataset import objects_of
from quantpipe.evaluation.image_detections import ImageDetections
from quantpipe.export.tolerance import MeanTolerance
from quantpipe.export.verify import Differences
from quantpipe.stages.evaluate.config import ParitySettings
from quantpipe.stages.evaluate.parity import (
    Distances,
    _confident,
    _map_delta,
    fault_of,
    parity_error,
)

SETTINGS = ParitySettings(
    num_images=4,
    fp32=MeanTolerance(box_mean_abs=0.01, score_mean_abs=0.001),
    half=MeanTolerance(box_mean_abs=1.0, score_mean_abs=0.02),
    int8_limit=1.5,
    min_agreement=0.5,
)


def parity(boxes: float, scores: float = 0.0) -> Differences:
    return Differences(
        max_abs=9.0,
        mean_abs=boxes,
        box_max_abs=9.0,
        box_mean_abs=boxes,
        score_max_abs=0.5,
        score_mean_abs=scores,
    )


def distances(**changes: Any) -> Distances:
    fields: dict[str, Any] = {
        "distance": parity(0.0),
        "effect": None,
        "from_float": None,
        "box_extent": 1.0,
        "agreement": 0.0,
    }
    return Distances(**fields | changes)


@pytest.mark.parametrize(
    ("measured", "precision", "fault"),
    [
        (distances(distance=parity(0.009, 0.0009)), "fp32", None),
        (distances(distance=parity(0.02)), "fp32", "boxes lie 0.02 px from the network's"),
        (distances(distance=parity(0.02), box_extent=3.0), "fp32", None),
        (distances(distance=parity(0.0, 0.002)), "fp32", "scores lie 0.002"),
        (distances(distance=parity(0.9, 0.01)), "half", None),
        (distances(distance=parity(1.1)), "half", "boxes lie 1.1 px"),
        # INT8: 1.5 times what quantization does, and what float layers may be off by.
        (distances(effect=parity(2.0), from_float=parity(3.0)), "fp32", None),
        (
            distances(effect=parity(2.0), from_float=parity(3.1)),
            "fp32",
            "boxes lie 3.1 px from the float network's on average, allowed 3.01",
        ),
        (distances(effect=parity(0.0), from_float=parity(0.5)), "half", None),
        (distances(effect=parity(0.0), from_float=parity(0.5)), "fp32", "boxes lie 0.5"),
        (
            distances(effect=parity(1.0, 0.01), from_float=parity(0.0, 0.02)),
            "fp32",
            "scores lie 0.02",
        ),
        # Detections instead of predictions.
        (distances(distance=None, agreement=0.49), "fp32", "detections agree to 0.490"),
        (distances(distance=None, agreement=0.5), "fp32", None),
        (distances(distance=None, agreement=None), "fp32", None),
    ],
)
def test_what_is_past_its_limit_is_said(
    measured: Distances, precision: str, fault: str | None
) -> None:
    found = fault_of(measured, precision, SETTINGS)
    assert (found is None) == (fault is None)
    assert found is None or fault is None or found.startswith(fault)


def detected(*scores: float) -> ImageDetections:
    boxes = np.tile(np.array([[10, 10, 30, 40]], dtype=np.float32), (len(scores), 1))
    return ImageDetections(
        image_id=1,
        boxes=boxes,
        scores=np.array(scores, dtype=np.float32),
        labels=np.zeros(len(scores), dtype=np.int64),
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([detected(0.9, 0.6), detected(0.7)], 0.6),
        ([detected(0.9, 0.1)], 0.3),
        ([detected(), detected()], 0.3),
    ],
)
def test_what_a_graph_leaves_out_is_not_missed(
    found: Sequence[ImageDetections], expected: float
) -> None:
    assert _confident(found, True) == pytest.approx(expected)
    assert _confident(found, False) == 0.3


def test_images_without_objects_have_no_difference(tmp_path: Path) -> None:
    empty = DetectionDataset(
        name="x", root=tmp_path, images=(), class_names=("a",), category_ids=(1,), counts={}
    )
    assert _map_delta([detected(0.9)], [detected(0.9)], objects_of(empty)) is None
    truth: Truth = {
        "images": [{"id": 1}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 30]}],
        "categories": [{"id": 1, "name": "a"}],
    }
    objects = objects_in(truth, (1,))
    assert _map_delta([detected()], [detected(0.9)], objects) == pytest.approx(1.0)
    assert _map_delta([detected(0.9)], [detected(0.9)], objects) == 0.0


@pytest.mark.parametrize("place", [None, "neck.up"])
def test_an_engine_past_its_limit_is_told_with_the_place(place: str | None) -> None:
    line = str(parity_error("ptq", "fake-quantized", "boxes lie far", place))
    assert line.startswith("engine 'ptq' does not compute its fake-quantized network: boxes lie")
    assert ("they first part at 'neck.up'" in line) == (place is not None)
    assert ("keep that operation in float" in line) == (place is not None)
