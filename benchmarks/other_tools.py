"""Other tools' own post-training quantization of a float ONNX graph, with their defaults."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Batches = Iterable[NDArray[np.float32]]


def quantize_with_onnxruntime(source: Path, target: Path, batches: Batches) -> None:
    """Writes ONNX Runtime's static quantization in its QDQ format, weights by channel."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    name = onnxruntime.InferenceSession(source).get_inputs()[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            images = next(self._batches, None)
            return None if images is None else {name: images}

    quantize_static(source, target, Reader(), per_channel=True)


def quantize_with_nncf(source: Path, batches: Batches) -> Any:
    """Returns NNCF's post-training quantization as an OpenVINO model."""
    import nncf
    import openvino

    model = openvino.Core().read_model(source)
    images = list(batches)
    return nncf.quantize(model, nncf.Dataset(images), subset_size=len(images))
