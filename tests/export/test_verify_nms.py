from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from quantpipe.errors import ArtifactError
from quantpipe.evaluation.postprocess import detections
from quantpipe.export.nms import append_nms
from quantpipe.export.onnx_graph import write_graph
from quantpipe.export.verify import unoptimized
from quantpipe.export.verify_nms import verify_nms
from quantpipe.graph.suppression import Suppression

CHOSEN = {"confidence": 0.6, "iou": 0.5, "max_detections": 150}


def _model(crowded: onnx.ModelProto, **changes: Any) -> onnx.ModelProto:
    return append_nms(crowded, Suppression(**{**CHOSEN, **changes}), "abc", "onnx")


@pytest.fixture
def verified(exported: Any, crowded: onnx.ModelProto, tmp_path: Path) -> Any:
    """``verified(model, **changes of what is asked for)``: the number of detections compared."""

    def verify(model: onnx.ModelProto, **changes: Any) -> int:
        write_graph(tmp_path / "raw.onnx", crowded)
        write_graph(tmp_path / "nms.onnx", model)
        images, chosen = exported.images.numpy(), {**CHOSEN, **changes}
        predictions = unoptimized(tmp_path / "raw.onnx")(images)
        predictions[..., 2:4] = np.maximum(predictions[..., 2:4], 0)

        def suppress(rows: Any, iou: float) -> Any:
            return detections(rows, **{**chosen, "iou": iou})

        return verify_nms(
            tmp_path / "nms.onnx",
            images,
            predictions,
            suppress,
            iou=chosen["iou"],
            max_detections=chosen["max_detections"],
        )

    return verify


def test_a_graph_that_keeps_what_we_keep_passes(verified: Any, crowded: Any) -> None:
    assert verified(_model(crowded)) > 40
    few = {"max_detections": 5}
    assert verified(_model(crowded, **few), **few) == 20
    assert verified(_model(crowded, confidence=1), confidence=1) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"confidence": 0.7}, "[1-9][0-9]* are missing, 0 are others"),
        ({"confidence": 0.5}, "[1-9][0-9]* are others"),
        ({"iou": 0.4}, "are missing"),
        ({"iou": 0.6}, "are others"),
        ({"max_detections": 3}, "are missing"),
    ],
)
def test_other_settings_fail(verified: Any, crowded: Any, change: Any, told: str) -> None:
    with pytest.raises(ArtifactError, match=told):
        verified(_model(crowded, **change))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nms.one_half", np.float32(1)),
        ("nms.num_anchors", np.int64(83)),
        ("nms.class_scores.start", np.array([6])),
    ],
)
def test_another_constant_inside_fails(verified: Any, crowded: Any, name: str, value: Any) -> None:
    model = _model(crowded)
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    if name == "nms.class_scores.start":  # two classes left of three, each called as another
        del model.graph.value_info[:]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value), name))
    with pytest.raises(ArtifactError, match="are others"):
        verified(model)


def test_padding_that_is_not_empty_fails(verified: Any, crowded: Any) -> None:
    model = _model(crowded)
    (tensor,) = (t for t in model.graph.initializer if t.name == "nms.none")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(2, np.int32), tensor.name))
    with pytest.raises(ArtifactError, match="is not zero behind the"):
        verified(model)
