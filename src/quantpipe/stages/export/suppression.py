"""A graph whose last part is the suppression that this project applies outside of graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantpipe.evaluation.postprocess import detections
from quantpipe.export.nms import NmsForm, append_nms
from quantpipe.export.onnx_graph import read_graph, write_graph
from quantpipe.export.simplify import qdq_scales, require_same_qdq
from quantpipe.export.verify import unoptimized
from quantpipe.export.verify_nms import verify_nms
from quantpipe.graph.suppression import Suppression


def append_verified_nms(
    path: Path,
    settings: Suppression,
    class_names: Sequence[str],
    form: NmsForm,
    images: NDArray[np.float32],
) -> int:
    """Appends suppression to the graph in a file, and compares what it keeps with ours.

    Args:
        path: A graph that predicts; afterwards it hands out detections.
        settings: What is kept.
        class_names: In the order of the scores.
        form: Of the suppression.
        images: (B, 3, H, W), as the network takes them, to compare on.

    Returns:
        The number of detections compared.

    Raises:
        ArtifactError: The graph does not predict, or it keeps other detections than ours.
        NumericalError: It predicts something that is not finite.
    """

    def suppress(predictions: NDArray[np.float32], iou: float) -> list[NDArray[np.float32]]:
        sized = predictions.copy()
        sized[..., 2:4] = np.maximum(sized[..., 2:4], 0)
        return detections(
            sized,
            confidence=settings.confidence,
            iou=iou,
            max_detections=settings.max_detections,
        )

    graph, predictions = read_graph(path), unoptimized(path)(images)
    detecting = append_nms(graph, settings, class_names, form)
    require_same_qdq(qdq_scales(graph), qdq_scales(detecting))
    write_graph(path, detecting)
    return verify_nms(
        path,
        images,
        predictions,
        suppress,
        iou=settings.iou,
        max_detections=settings.max_detections,
    )
