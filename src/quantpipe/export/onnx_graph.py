"""Exporting the float detector: one self-contained ONNX file whose names are the detector's."""

from __future__ import annotations

import ast
import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
import torch
from torch import nn

from quantpipe.errors import ArtifactError, ConfigurationError, MachineError
from quantpipe.files import write_atomic
from quantpipe.graph.onnx_file import read_onnx
from quantpipe.graph.operations import CONVOLUTIONS, repeated_name

INPUT_NAME = "images"
OUTPUT_NAME = "predictions"
OPSETS = range(17, 24)
_LARGEST_BATCH = 4096
_EXPORTER_OPSET = 18  # the oldest that torch.onnx produces
_SCOPES = "pkg.torch.onnx.name_scopes"
_EXPORTER_LOGGERS = ("torch.onnx._internal.exporter._registration",)


def export_float(
    detector: nn.Module,
    path: Path,
    *,
    image_size: tuple[int, int],
    batch: int | Literal["dynamic"],
    opset: int,
) -> None:
    """Writes a detector in deploy form as ONNX: ``images`` in, ``predictions`` out, float32.

    Weights keep their names, nodes of convolutions and max-pools are named by their module path,
    and nothing of this machine (paths, stack traces) is left inside: the same detector gives the
    same bytes.

    Args:
        detector: Maps images (B, 3, H, W) to predictions (B, A, 5 + classes).
        path: The file to write, atomically.
        image_size: H and W in pixels.
        batch: A fixed batch size, or ``dynamic``.
        opset: 17 (TensorRT 8.6) to 23; float16 scales need 19 or newer.

    Raises:
        ConfigurationError: ``opset`` is out of range.
    """
    if opset not in OPSETS:
        raise ConfigurationError(
            f"opset {opset} is not one of {OPSETS.start} to {OPSETS.stop - 1}", path="export.opset"
        )
    model = _exported(detector, image_size, batch, max(opset, _EXPORTER_OPSET))
    _name_operations(model.graph)
    _drop_provenance(model)
    proto = ir.to_proto(model)
    write_atomic(path, serialized(lowered(proto, opset)))


def read_graph(path: Path) -> onnx.ModelProto:
    """Reads a file that :func:`export_float` wrote; data outside the file is never followed.

    Raises:
        ArtifactError: It cannot be read, or is not a whole ONNX file that stands alone.
    """
    return read_onnx(path).model


def write_graph(path: Path, model: onnx.ModelProto) -> None:
    """Checks a model against the ONNX standard, shapes included, and writes it atomically."""
    onnx.checker.check_model(model, full_check=True)
    write_atomic(path, serialized(model))


def serialized(model: onnx.ModelProto) -> bytes:
    """Returns the one byte string of a model."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def lowered(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Returns the model at an older opset, whose operators must mean the same there.

    Raises:
        ArtifactError: An operator changed in between.
    """
    current = next(item for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if current.version <= opset:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        _lower_node(node, current.version, opset)
    for item in result.opset_import:
        if item.domain in ("", "ai.onnx"):
            item.version = opset
    return result


def _lower_node(node: onnx.NodeProto, current: int, opset: int) -> None:
    if node.op_type == "Split" and opset < 18:
        # Opset 18 states how many equal parts there are; before, the outputs themselves say it.
        kept = [item for item in node.attribute if item.name != "num_outputs"]
        del node.attribute[:]
        node.attribute.extend(kept)
        return
    if onnx.defs.get_schema(node.op_type, current).since_version > opset:
        raise ArtifactError(f"operator {node.op_type} of opset {current} is not in opset {opset}")


def _exported(
    detector: nn.Module, image_size: tuple[int, int], batch: int | Literal["dynamic"], opset: int
) -> ir.Model:
    dynamic = batch == "dynamic"
    # A traced batch of 1 would be taken for a constant.
    example = torch.zeros(2 if isinstance(batch, str) else batch, 3, *image_size)
    dimension = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            detector.eval(),
            (example,),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: dimension},) if dynamic else None,
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silences what the exporter says about its own insides and about libraries not needed here."""
    loggers = [logging.getLogger(name) for name in _EXPORTER_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _name_operations(graph: ir.Graph) -> None:
    uses: Counter[str] = Counter()
    for node in graph:
        operation = _module_path(node)
        if operation is None:
            continue
        node.name = repeated_name(operation, uses[operation])
        uses[operation] += 1


def _module_path(node: ir.Node) -> str | None:
    if node.op_type in CONVOLUTIONS:
        weight = node.inputs[1]
        assert weight is not None
        assert weight.name is not None
        return weight.name.removesuffix(".weight")
    if node.op_type == "MaxPool":
        return _scope(node)
    return None


def _scope(node: ir.Node) -> str:
    """Reads the exporter's scopes, which end in the module's path and the call inside it."""
    try:
        return str(ast.literal_eval(node.metadata_props[_SCOPES])[-2])
    except (KeyError, ValueError, SyntaxError, IndexError, TypeError) as error:
        raise MachineError(
            f"torch {torch.__version__} does not tell which module '{node.name}' belongs to",
            hint="install a version of torch that constraints.txt names",
        ) from error


def _drop_provenance(model: ir.Model) -> None:
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        values.extend(node.outputs)
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None
