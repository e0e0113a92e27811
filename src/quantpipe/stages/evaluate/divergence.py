"""The first operation at which an engine computes something else than its network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantpipe.assembly.engines import typed_source
from quantpipe.assembly.networks import Loaded, predict_with
from quantpipe.engines.engine import BuildSettings, build_engine, load_engine
from quantpipe.engines.engine_file import EngineHeader
from quantpipe.errors import ArtifactError
from quantpipe.export.onnx_graph import read_graph, write_graph
from quantpipe.graph.bisection import first_diverged, graph_until
from quantpipe.graph.operations import operation_producers

# Of the mean of what an operation computes: what rounding may do to it, by the engine's arithmetic.
_FLOOR = {"f32": 1e-3, "half": 0.03}


def diverged_operation(
    header: EngineHeader,
    graph: Path,
    loaded: Loaded,
    images: NDArray[np.float32],
    *,
    int8_limit: float,
    folder: Path,
) -> str | None:
    """Builds engines that end at one operation after another, and bisects.

    Args:
        header: Of the engine that is too far from its network.
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
    if header.precision == "int8" and not any(
        node.op_type == "QuantizeLinear" for node in model.graph.node
    ):
        raise ArtifactError("holds no ranges: they came from a calibration cache", path=graph)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    images = np.repeat(images, batch, axis=0)
    comparison = _Comparison(header, model, loaded, images, int8_limit, folder)
    return first_diverged(operation_producers(model), comparison)


class _Comparison:
    """Compares engine and network at one operation."""

    def __init__(
        self,
        header: EngineHeader,
        model: onnx.ModelProto,
        loaded: Loaded,
        images: NDArray[np.float32],
        int8_limit: float,
        folder: Path,
    ):
        self._header, self._model, self._loaded = header, model, loaded
        self._images, self._limit, self._folder = images, int8_limit, folder
        quantized = header.precision == "int8"
        self._floor = _FLOOR[header.float_precision if quantized else header.precision]

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
        settings = _settings(self._header, len(self._images))
        source = typed_source(
            self._header.engine,
            settings.precision,
            settings.float_precision,
            source,
            self._folder / "until.half.onnx",
        )
        build_engine(self._header.engine, source, path, settings)
        engine = load_engine(self._header.engine, path)
        try:
            return np.asarray(engine.run(self._images), dtype=np.float64)
        finally:
            engine.close()


def _settings(header: EngineHeader, batch_size: int) -> BuildSettings:
    fields: dict[str, Any] = {
        name: getattr(header, name)
        for name in BuildSettings.__dataclass_fields__
        if name in EngineHeader.__dataclass_fields__
    }
    return BuildSettings(**fields | {"batch_sizes": (batch_size,), "mode": "latency"})
