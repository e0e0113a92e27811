"""Finding the detector's operations in an ONNX graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import onnx
import onnx_ir as ir

from quantpipe.errors import ArtifactError, nearest

CONVOLUTIONS = ("Conv", "ConvTranspose")
_WEIGHT = ".weight"
_REPEAT = "/"  # never part of a module path
_ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Mul", "Clip", "HardSwish", "LeakyRelu"})


def repeated_name(operation: str, repeat: int) -> str:
    """Returns the node name of the ``repeat``-th use of a module (0 is the first)."""
    return operation if repeat == 0 else f"{operation}{_REPEAT}{repeat}"


def operation_nodes(graph: ir.Graph) -> dict[str, list[ir.Node]]:
    """Returns the nodes of every operation, in execution order, by module path.

    A convolution is named by its weight initializer, which no exporter and no simplifier renames;
    a max-pool by its node, as :func:`quantpipe.export.onnx_graph.export_float` names it. A module
    that runs several times has several nodes.

    Raises:
        ArtifactError: Two convolutions share one weight, or two max-pools one name, so that one
            name would mean two places.
    """
    found: dict[str, list[ir.Node]] = {}
    for node in graph:
        name = _operation_name(node)
        if name is None:
            continue
        others = found.get(name, [])
        if any(o.op_type in CONVOLUTIONS or o.name == node.name for o in others):
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


def operation_aliases(model: onnx.ModelProto) -> dict[str, str]:
    """Returns the operation behind each name that a library may give to what computes it.

    That is the name of its node, and the names of the tensors that it and its activation compute,
    after which ONNX Runtime calls a convolution that it has laid out anew.

    Args:
        model: A float graph.
    """
    names = {}
    for operation, nodes in operation_nodes(ir.from_proto(model).graph).items():
        names[operation] = operation
        for node in nodes:
            names[str(node.name)] = operation
            names |= dict.fromkeys(_computed_names(node), operation)
    return names


def _computed_names(node: ir.Node) -> list[str]:
    """Names of a node's result, and of what an activation that alone reads it makes of it."""
    value = node.outputs[0]
    names = [str(value.name)]
    while (readers := {use.node for use in value.uses()}) and all(
        reader.op_type in _ACTIVATIONS for reader in readers
    ):
        value = max(readers, key=lambda reader: reader.op_type == "Mul").outputs[0]
        names.append(str(value.name))
    return names


def operation_readers(model: onnx.ModelProto) -> dict[str, frozenset[str]]:
    """Returns for each operation those that read its result, also through a concat or activation.

    Args:
        model: A float graph.
    """
    nodes = operation_nodes(ir.from_proto(model).graph)
    operations = {node: name for name, uses in nodes.items() for node in uses}
    return {name: frozenset(_readers(uses, operations)) for name, uses in nodes.items()}


def operation_producers(model: onnx.ModelProto) -> dict[str, frozenset[str]]:
    """Returns for each operation, in execution order, those whose results it reads.

    Names are those of the nodes, so that a graph with Q/DQ serves too. Results are followed through
    activations, concats and Q/DQ pairs.
    """
    sources: dict[str, frozenset[str]] = {}
    producers: dict[str, frozenset[str]] = {}
    for node in model.graph.node:
        read = frozenset().union(*(sources.get(name, frozenset()) for name in node.input))
        if node.op_type in (*CONVOLUTIONS, "MaxPool"):
            operation = node.name.split(_REPEAT)[0]
            producers[operation] = producers.get(operation, frozenset()) | read - {operation}
            read = frozenset({operation})
        sources |= dict.fromkeys(node.output, read)
    return producers


def result_sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Returns the elements of each operation's results for one image.

    Args:
        model: A float graph with the shapes of its tensors, whose first axis is the batch.
    """
    nodes = operation_nodes(ir.from_proto(onnx.shape_inference.infer_shapes(model)).graph)
    return {name: sum(_elements(node.outputs[0]) for node in uses) for name, uses in nodes.items()}


def _elements(value: ir.Value) -> int:
    assert value.shape is not None
    return math.prod(int(size) for size in value.shape.dims[1:] if isinstance(size, int))


def _readers(nodes: Iterable[ir.Node], operations: Mapping[ir.Node, str]) -> set[str]:
    found: set[str] = set()
    waiting, seen = list(nodes), set(nodes)
    while waiting:
        for use in waiting.pop().outputs[0].uses():
            if use.node in operations:
                found.add(operations[use.node])
            elif use.node not in seen:
                seen.add(use.node)
                waiting.append(use.node)
    return found


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
