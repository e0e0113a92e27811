"""Whether an ONNX file computes what the framework does: ONNX Runtime runs it as written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from quantpipe.errors import ArtifactError, NumericalError
from quantpipe.export.nms import with_standard_nms
from quantpipe.export.onnx_graph import read_graph, serialized
from quantpipe.export.tolerance import MeanTolerance
from quantpipe.graph.detections import predictions_from
from quantpipe.graph.onnx_file import num_detected_classes

_BOX_COLUMNS = 4
_SCORE_COLUMN = 5
_ERRORS_ONLY = 3

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Differences:
    """How far two sets of predictions lie apart.

    Attributes:
        max_abs: Largest difference of any value.
        mean_abs: Mean difference of all values.
        box_max_abs: Largest difference of a box value, in pixels.
        box_mean_abs: Mean difference of the box values, in pixels.
        score_max_abs: Largest difference of a class score.
        score_mean_abs: Mean difference of the class scores.
    """

    max_abs: float
    mean_abs: float
    box_max_abs: float
    box_mean_abs: float
    score_max_abs: float
    score_mean_abs: float


def verify_against(
    reference: Callable[[FloatArray], FloatArray],
    path: Path,
    images: FloatArray,
    tolerance: MeanTolerance,
) -> Differences:
    """Compares an ONNX file with the network it was made from.

    Args:
        reference: Maps images (B, 3, S, S) to predictions (B, A, 5 + classes).
        path: The ONNX file; its batch is dynamic, or B.
        images: (B, 3, H, W), as the network takes them.
        tolerance: What passes.

    Raises:
        ArtifactError: ONNX Runtime cannot read the file, or a difference is too large.
        NumericalError: Either side predicts something that is not finite.
    """
    expected = np.asarray(reference(images))
    actual = unoptimized(path)(images)
    if actual.shape != expected.shape:
        raise ArtifactError(
            f"predicts {list(actual.shape)}, the network {list(expected.shape)}", path=path
        )
    for name, values in (("the network", expected), ("the ONNX file", actual)):
        if not np.isfinite(values).all():
            raise NumericalError(f"{name} predicts values that are not finite", path=path)
    parity = compare(expected, actual)
    _require(path, parity, box_extent(expected, images), tolerance)
    return parity


def verify_quantized(
    quantized: Callable[[FloatArray], FloatArray],
    original: Callable[[FloatArray], FloatArray],
    path: Path,
    images: FloatArray,
    limit: float,
) -> Differences:
    """Compares a quantized ONNX file with the float and the fake-quantized network.

    A value between two codes may be rounded either way, the difference grows through the network,
    and processors get activations on a grid twice as fine as the simulated one: no fixed limit on
    the distance to the fake-quantized network fits. What is asked is that the file be not much
    farther from the float network than the fake-quantized one is; with a wrong or missing scale it
    is. (It may be somewhat farther where biases are corrected for what the coarser grid shifts.)

    Args:
        quantized: The fake-quantized network: images (B, 3, S, S) to predictions.
        original: The float network.
        path: The ONNX file; its batch is dynamic, or B.
        images: (B, 3, H, W), as the network takes them.
        limit: Mean distance from the float network that passes, in those of the fake-quantized one.

    Returns:
        The distance between the file and the fake-quantized network.

    Raises:
        ArtifactError: ONNX Runtime cannot read the file, or it differs too much.
        NumericalError: Either side predicts something that is not finite.
    """
    float_predictions, simulated = np.asarray(original(images)), np.asarray(quantized(images))
    effect = compare(float_predictions, simulated)
    limits = MeanTolerance(
        box_mean_abs=limit * effect.box_mean_abs + _ROUNDING,
        score_mean_abs=limit * effect.score_mean_abs + _ROUNDING,
    )
    verify_against(lambda _: float_predictions, path, images, limits)
    return compare(simulated, unoptimized(path)(images))


def unoptimized(path: Path) -> Callable[[FloatArray], FloatArray]:
    """Returns the function that an ONNX file is, with no optimization of ONNX Runtime applied.

    Detections of a graph that suppresses by itself become predictions, as
    :mod:`quantpipe.graph.detections` says.

    Raises:
        ArtifactError: It cannot be read.
    """
    outputs = unoptimized_outputs(path)
    num_classes = num_detected_classes(path, read_graph(path))
    return lambda images: predictions_from(outputs(images), num_classes)


def unoptimized_outputs(path: Path) -> Callable[[FloatArray], list[NDArray[np.generic]]]:
    """Returns the outputs of an ONNX file as they are; TensorRT's plugin is replaced by its like.

    Raises:
        ArtifactError: It cannot be read.
    """
    content = serialized(with_standard_nms(read_graph(path)))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except _UNREADABLE as error:
        raise ArtifactError(f"ONNX Runtime cannot read it: {error}", path=path) from error
    name = session.get_inputs()[0].name

    def run(images: FloatArray) -> list[NDArray[np.generic]]:
        outputs: list[NDArray[np.generic]] = session.run(None, {name: images})
        return outputs

    return run


def compare(expected: FloatArray, actual: FloatArray) -> Differences:
    """Returns how far ``actual`` lies from ``expected``, both (B, A, 5 + classes)."""
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    boxes, scores = difference[..., :_BOX_COLUMNS], difference[..., _SCORE_COLUMN:]
    return Differences(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        box_max_abs=float(boxes.max()),
        box_mean_abs=float(boxes.mean()),
        score_max_abs=float(scores.max()),
        score_mean_abs=float(scores.mean()),
    )


def averaged(parts: Sequence[tuple[int, Differences]]) -> Differences:
    """Returns the parity over several batches, each given with its number of images."""
    counts = [count for count, _ in parts]
    values = {}
    for name in Differences.__dataclass_fields__:
        found = [getattr(parity, name) for _, parity in parts]
        whole = np.average(found, weights=counts) if "mean" in name else np.max(found)
        values[name] = float(whole)
    return Differences(**values)


# The binding raises these classes of its own, which share no base but Exception.
_UNREADABLE: tuple[type[Exception], ...] = tuple(
    getattr(ort.capi.onnxruntime_pybind11_state, name)
    for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
)


_CHAOS = 100.0
_ROUNDING = 1e-4
_UNTRAINED = "the network predicts boxes {:.0f} times as large as its image: train it for longer"


def box_extent(expected: FloatArray, images: FloatArray) -> float:
    """Returns how many image sides the largest box value spans; at least 1.

    An untrained network predicts boxes far beyond its image, and rounding errors grow with them.
    """
    largest = float(np.abs(expected[..., :_BOX_COLUMNS]).max())
    return max(1.0, largest / int(max(images.shape[-2:])))


def _require(path: Path, parity: Differences, box_extent: float, tolerance: MeanTolerance) -> None:
    for name, base in sorted(vars(tolerance).items()):
        value = getattr(parity, name)
        limit = base * box_extent if name.startswith("box") else base
        if value > limit:
            raise ArtifactError(
                f"differs from the network: {name} is {value:.3g}, allowed is {limit:.3g}",
                path=path.name,
                hint=_UNTRAINED.format(box_extent) if box_extent > _CHAOS else None,
            )
