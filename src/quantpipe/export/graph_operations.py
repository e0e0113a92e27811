"""Finding the detector's operations in an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from quantpipe.errors import ArtifactError, nearest

CONVOLUTIONS = ("Conv", "ConvTranspose")
_WEIGHT = ".weight"
_REPEAT = "/"  # never part of a module path


def repeated_name(operation: str, repeat: int) -> str:
    """Returns the node name of the ``repeat``-th use of a module (0 is the first)."""
    return operation if repeat == 0 else f"{operation}{_REPEAT}{repeat}"


def operation_nodes(graph: ir.Graph) -> dict[str, list[ir.Node]]:
    """Returns the nodes of every operation, in execution order, by module path.

    A convolution is named by its weight initializer, which no exporter and no simplifier renames;
    a max-pool by its node, as :func:`quantpipe.export.onnx_graph.export_float` names it. A module
    that runs several times has several nodes.

    Raises:
        ArtifactError: Two convolutions share one weight, so that one name would mean two places.
    """
    found: dict[str, list[ir.Node]] = {}
    for node in graph:
        name = _operation_name(node)
        if name is None:
            continue
        if name in found and node.op_type in CONVOLUTIONS:
            raise ArtifactError(f"operation '{name}' appears twice in the ONNX graph")
        found.setdefault(name, []).append(node)
    return found


def require_operations(found: Iterable[str], wanted: Iterable[str]) -> None:
    """Refuses names that the graph does not hold.

    Raises:
        ArtifactError: Naming one of them, and the nearest that is there.
    """
    present = set(found)
    for name in wanted:
        if name not in present:
            raise ArtifactError(
                f"operation '{name}' is not in the ONNX graph", hint=nearest(name, present)
            )


def graph_inputs(nodes: Mapping[str, list[ir.Node]]) -> dict[str, tuple[str, ...]]:
    """Returns the ONNX tensors that each operation reads, one for each of its nodes."""
    return {name: tuple(_first_input(use) for use in uses) for name, uses in nodes.items()}


def _first_input(node: ir.Node) -> str:
    value = node.inputs[0]
    assert value is not None
    assert value.name is not None
    return value.name


def _operation_name(node: ir.Node) -> str | None:
    if node.op_type == "MaxPool":
        return (node.name or "").split(_REPEAT)[0]
    if node.op_type not in CONVOLUTIONS:
        return None
    weight = node.inputs[1]
    if weight is None or not weight.is_initializer() or weight.name is None:
        return None
    return weight.name.removesuffix(_WEIGHT)
