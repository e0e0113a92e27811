"""Reading the ONNX file an engine is built from, before any inference library sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from quantpipe.errors import ArtifactError
from quantpipe.files import sha256_bytes
from quantpipe.graph.onnx_file import (
    DETECTION_OUTPUTS,
    num_detected_classes,
    read_onnx,
    standard_opset,
)


@dataclass(frozen=True, kw_only=True)
class OnnxSource:
    """A checked ONNX model: its bytes, their digest, and the shape of its one input.

    Attributes:
        content: The bytes.
        sha256: Their digest.
        input_name: Of the images.
        batch: None where the batch is dynamic.
        num_classes: Of a graph that hands out detections; None of one that predicts.
        opset: Of ONNX's own operators.
    """

    content: bytes
    sha256: str
    input_name: str
    batch: int | None
    num_classes: int | None
    opset: int


def read_onnx_source(
    path: Path, *, image_size: tuple[int, int], batch_sizes: tuple[int, ...]
) -> OnnxSource:
    """Reads a self-contained ONNX file and checks it against the shapes it is to be built for.

    Args:
        path: The file.
        image_size: Height and width in pixels.
        batch_sizes: A graph of a fixed batch serves that one alone.

    Raises:
        ArtifactError: It is not a whole ONNX file, refers to other files, or has other shapes.
    """
    file = read_onnx(path)
    inputs = file.model.graph.input
    names = tuple(output.name for output in file.model.graph.output)
    if len(inputs) != 1 or (len(names) != 1 and names != DETECTION_OUTPUTS):
        raise ArtifactError(
            f"has {len(inputs)} inputs and {len(names)} outputs, one of each is needed, or as "
            f"outputs {', '.join(DETECTION_OUTPUTS)}",
            path=path,
        )
    batch = _require_shape(path, inputs[0], image_size, batch_sizes)
    return OnnxSource(
        content=file.content,
        sha256=sha256_bytes(file.content),
        input_name=inputs[0].name,
        batch=batch,
        num_classes=num_detected_classes(path, file.model),
        opset=standard_opset(file.model),
    )


def _require_shape(
    path: Path,
    value: onnx.ValueInfoProto,
    image_size: tuple[int, int],
    batch_sizes: tuple[int, ...],
) -> int | None:
    dims = value.type.tensor_type.shape.dim
    shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    if len(shape) != 4 or shape[1:] != [3, *image_size]:
        raise ArtifactError(
            f"its input is {shape}, not (batch, 3, {image_size[0]}, {image_size[1]})",
            path=path,
            hint="export it at the image size of the engine",
        )
    batch = shape[0]
    if batch is not None and batch_sizes != (batch,):
        raise ArtifactError(
            f"its batch size is fixed to {batch}, batch sizes {list(batch_sizes)} are asked for",
            path=path,
            hint="export it with a dynamic batch",
        )
    return batch
