"""Reading the ONNX file an engine is built from, before any inference library sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from quantpipe.errors import ArtifactError
from quantpipe.files import sha256_bytes

_LARGEST = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class OnnxSource:
    """A checked ONNX model: its bytes, their digest, and the shape of its one input.

    ``batch`` is None where the batch is dynamic.
    """

    content: bytes
    sha256: str
    input_name: str
    output_name: str
    batch: int | None


def read_onnx_source(path: Path, *, image_size: int, batch_sizes: tuple[int, ...]) -> OnnxSource:
    """Reads a self-contained ONNX file and checks it against the shapes it is to be built for.

    A library would follow a reference to external data wherever it points, so a model with any is
    refused.

    Raises:
        ArtifactError: It is not a whole ONNX file, refers to other files, or has other shapes.
    """
    content = _read(path)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ArtifactError("is not a whole ONNX file", path=path) from error
    _require_self_contained(path, model)
    inputs, outputs = model.graph.input, model.graph.output
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactError(
            f"has {len(inputs)} inputs and {len(outputs)} outputs, one of each is needed", path=path
        )
    batch = _require_shape(path, inputs[0], image_size, batch_sizes)
    return OnnxSource(
        content=content,
        sha256=sha256_bytes(content),
        input_name=inputs[0].name,
        output_name=outputs[0].name,
        batch=batch,
    )


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST:
            raise ArtifactError("is larger than an ONNX file can be (2 GiB)", path=path)
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot be read ({error.strerror})", path=path) from error


def _require_self_contained(path: Path, model: onnx.ModelProto) -> None:
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ArtifactError(
                f"keeps '{tensor.name}' in another file", path=path, hint="export it as one file"
            )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _require_shape(
    path: Path, value: onnx.ValueInfoProto, image_size: int, batch_sizes: tuple[int, ...]
) -> int | None:
    dims = value.type.tensor_type.shape.dim
    shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    if len(shape) != 4 or shape[1:] != [3, image_size, image_size]:
        raise ArtifactError(
            f"its input is {shape}, not (batch, 3, {image_size}, {image_size})",
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
