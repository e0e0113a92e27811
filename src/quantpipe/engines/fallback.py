"""Why layers of an INT8 engine run in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from quantpipe.engines.contract import EngineLayer, Fallback, float_layers
from quantpipe.engines.engine_spec import QuantizedNode
from quantpipe.engines.profile import names_within
from quantpipe.engines.registry import engine_spec

UNPLANNED = "its graph has no Q/DQ pair here: the plan leaves it in float"
UNKNOWN = "no operation of its graph is called so"


def fallbacks(engine: str, layers: Sequence[EngineLayer], model: onnx.ModelProto) -> list[Fallback]:
    """Returns the float layers of an INT8 engine with what the graph and the library tell of each.

    Args:
        engine: A name of :data:`quantpipe.engines.registry.ENGINES`.
        layers: As the engine lists them.
        model: The graph with Q/DQ that it was built from.
    """
    graph = _Graph(model)
    return [
        Fallback(layer=layer.name, reason=_reason(engine, layer, graph))
        for layer in float_layers(layers)
    ]


class _Graph:
    """What is asked of a graph's nodes."""

    def __init__(self, model: onnx.ModelProto):
        self.nodes = {node.name: node for node in model.graph.node}
        self.maker = {output: node for node in model.graph.node for output in node.output}
        self.has_ranges = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def dequantized(self, name: str) -> bool:
        maker = self.maker.get(name)
        return maker is not None and maker.op_type == "DequantizeLinear"

    def requantized(self, node: onnx.NodeProto) -> bool:
        """Whether a Q node reads the result, directly or behind a ReLU."""
        readers = self._readers.get(node.output[0], [])
        kinds = {reader.op_type for reader in readers}
        if kinds == {"Relu"}:
            return all(self.requantized(reader) for reader in readers)
        return kinds == {"QuantizeLinear"}


def _reason(engine: str, layer: EngineLayer, graph: _Graph) -> str:
    named = names_within(layer.name, _quantizable(graph.nodes))
    if not named:
        return UNKNOWN
    node = graph.nodes[min(named)]
    if not graph.has_ranges:
        return (
            f"its ranges came from a calibration cache; {engine} chose a {layer.precision} kernel"
        )
    if not all(graph.dequantized(name) for name in _quantized_inputs(node)):
        return UNPLANNED
    facts = QuantizedNode(kind=node.op_type, requantized=graph.requantized(node))
    return engine_spec(engine).fallback(facts) or (
        f"its Q/DQ pairs are in the graph; {engine} chose a {layer.precision} kernel"
    )


def _quantizable(nodes: Mapping[str, onnx.NodeProto]) -> dict[str, str]:
    kinds = ("Conv", "ConvTranspose", "MaxPool")
    return {name: name for name, node in nodes.items() if node.op_type in kinds}


def _quantized_inputs(node: onnx.NodeProto) -> list[str]:
    return list(node.input[: 1 if node.op_type == "MaxPool" else 2])
