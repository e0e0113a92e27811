"""The first operation at which an engine computes something else than its network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantpipe.engines.contract import BuildSettings
from quantpipe.engines.registry import build_engine, load_engine
from quantpipe.engines.source import typed_source
from quantpipe.errors import ArtifactError
from quantpipe.evaluation.network import predict_with
from quantpipe.export.onnx_graph import read_graph, write_graph
from quantpipe.graph.bisection import first_diverged, graph_until
from quantpipe.graph.operations import operation_producers
from quantpipe.quantization.model import Model
from quantpipe.quantization.number_format import is_quantized

# Of the mean of what an operation computes: what rounding may do to it, by the engine's arithmetic.
_FLOOR = {"fp32": 1e-3, "half": 0.03}


def diverged_operation(
    settings: BuildSettings[Any],
    graph: Path,
    loaded: Model,
    images: NDArray[np.float32],
    *,
    int8_limit: float,
    folder: Path,
) -> str | None:
    """Builds engines that end at one operation after another, and bisects.

    Args:
        settings: Of the engine that is too far from its network.
        graph: What it was built from.
        loaded: The network, deployed.
        images: (1, 3, S, S); repeated where the graph has a fixed batch.
        int8_limit: Mean distance from the float network that passes, in those of the fake-quantized
            one.
        folder: For graphs and engines on the way.

    Returns:
        None where all operations agree: what comes after them does not.

    Raises:
        QuantpipeError: The graph is not that of the network, or a part of it cannot be built.
    """
    model = read_graph(graph)
    if is_quantized(settings.precision) and not any(
        node.op_type == "QuantizeLinear" for node in model.graph.node
    ):
        raise ArtifactError("holds no ranges: they came from a calibration cache", path=graph)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    images = np.repeat(images, batch, axis=0)
    comparison = _Comparison(settings, model, loaded, images, int8_limit, folder)
    return first_diverged(operation_producers(model), comparison)


class _Comparison:
    """Compares engine and network at one operation."""

    def __init__(
        self,
        settings: BuildSettings[Any],
        model: onnx.ModelProto,
        loaded: Model,
        images: NDArray[np.float32],
        int8_limit: float,
        folder: Path,
    ):
        engine = replace(settings.engine, batch_sizes=(len(images),), mode="latency")
        self._settings = replace(settings, engine=engine)
        self._model, self._loaded = model, loaded
        self._images, self._limit, self._folder = images, int8_limit, folder
        self._floor = _FLOOR[settings.float_precision]

    def __call__(self, operation: str) -> bool:
        floats = self._computed(self._loaded.network, operation)
        engine = self._engine_result(operation)
        allowed = self._floor * np.abs(floats).mean()
        if self._loaded.scales is not None:
            simulated = self._computed(self._loaded.quantized, operation)
            allowed += self._limit * np.abs(simulated - floats).mean()
        return bool(np.abs(engine - floats).mean() > allowed)

    def _computed(self, network: nn.Module, operation: str) -> NDArray[np.float64]:
        """What a network's operation computes, the first time that it runs."""
        results: list[Tensor] = []
        try:
            module = network.get_submodule(operation)
        except AttributeError:
            raise ArtifactError(f"the network has no operation '{operation}'") from None
        handle = module.register_forward_hook(lambda *call: results.append(call[2]))
        device = next(network.parameters()).device
        try:
            predict_with(network, torch.from_numpy(self._images).to(device))
        finally:
            handle.remove()
        return np.asarray(results[0].cpu(), dtype=np.float64)

    def _engine_result(self, operation: str) -> NDArray[np.float64]:
        source, path = self._folder / "until.onnx", self._folder / "until.engine"
        write_graph(source, graph_until(self._model, operation))
        source = typed_source(self._settings, source, self._folder / "until.half.onnx")
        build_engine(source, path, self._settings)
        engine = load_engine(self._settings.engine.name, path)
        try:
            return np.asarray(engine.run(self._images), dtype=np.float64)
        finally:
            engine.close()
