"""What plans take in the engine that will run them: measured by layer, predicted, and timed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from numpy.typing import NDArray

from quantpipe.core.stage import Context
from quantpipe.engines.benchmark import measure_latency
from quantpipe.engines.contract import BuildInputs, BuildSettings, Engine
from quantpipe.engines.profile import operation_times
from quantpipe.engines.registry import build_engine, engine_spec, load_engine
from quantpipe.engines.source import typed_source
from quantpipe.export.engine_graph import engine_graph
from quantpipe.export.onnx_graph import export_float, read_graph, write_graph
from quantpipe.files import canonical_json, sha256_bytes
from quantpipe.graph.operations import operation_aliases, operation_readers, result_sizes
from quantpipe.quantization.model import Model
from quantpipe.quantization.number_format import Precision
from quantpipe.quantization.plans.latency_model import (
    EngineTimes,
    LatencyModel,
    MixedEngine,
    fit_latency,
)
from quantpipe.quantization.precision_plan import PlanLatency, PrecisionPlan, planned_precisions
from quantpipe.settings.engine import EngineSettings

_QUANTIZED, _FLOAT = "quantized", "float"


@dataclass(frozen=True, kw_only=True)
class PlanTimer:
    """Builds and times engines of one network; what was built is found again in its folder.

    Attributes:
        loaded: The network with its ranges.
        engine: The library; float operations run in its ``float_precision``.
        batch_size: Images of a timed batch.
        num_warmup: Runs that are not counted.
        num_runs: Runs that are.
        opset: Of the graphs.
        folder: Where graphs and engines are kept.
        context: Seed and progress.
    """

    loaded: Model
    engine: EngineSettings
    batch_size: int
    num_warmup: int
    num_runs: int
    opset: int
    folder: Path
    context: Context

    @cached_property
    def model(self) -> LatencyModel:
        """The layers of INT8 and of float throughout, and borders from two that alternate."""
        readers = operation_readers(self._graph)
        operations = tuple(readers)
        engines = {
            _QUANTIZED: self._built(frozenset()),
            _FLOAT: self._built(None),
            "even": self._built(frozenset(operations[::2])),
            "odd": self._built(frozenset(operations[1::2])),
        }
        whole = self._timed(engines)
        return fit_latency(
            self._times(engines[_QUANTIZED], whole[_QUANTIZED]),
            self._times(engines[_FLOAT], whole[_FLOAT]),
            [
                MixedEngine(float_operations=frozenset(operations[::2]), whole=whole["even"]),
                MixedEngine(float_operations=frozenset(operations[1::2]), whole=whole["odd"]),
            ],
            sizes=result_sizes(self._graph),
            readers=readers,
        )

    def time(self, plan: PrecisionPlan) -> PlanLatency:
        """Times a plan in turn with both extremes; its prediction is in the time of that turn."""
        engines = {_QUANTIZED: self._built(frozenset()), _FLOAT: self._built(None)}
        if plan.float_operations:
            engines["plan"] = self._built(frozenset(plan.float_operations))
        whole = self._timed(engines)
        predicted = self.model.predicted(plan.float_operations) / self.model.predicted(())
        return PlanLatency(
            engine=self.engine.name,
            batch_size=self.batch_size,
            predicted=predicted * whole[_QUANTIZED],
            measured=whole.get("plan", whole[_QUANTIZED]),
            all_int8=whole[_QUANTIZED],
            all_float=whole[_FLOAT],
        )

    @cached_property
    def _graph(self) -> onnx.ModelProto:
        path = self.folder / "traced.onnx"
        if not path.exists():
            export_float(
                self.loaded.network,
                path,
                image_size=self.loaded.checkpoint.input.size,
                batch="dynamic",
                opset=self.opset,
            )
        return read_graph(path)

    @cached_property
    def _images(self) -> NDArray[np.float32]:
        size = self.loaded.checkpoint.input.size
        rng = np.random.default_rng(self.context.seed)
        return rng.random((self.batch_size, 3, *size), dtype=np.float32)

    def _built(self, kept: frozenset[str] | None) -> Path:
        """The engine with some operations in float; None for a float engine."""
        name = _FLOAT if kept is None else sha256_bytes(canonical_json({"": sorted(kept)}).encode())
        path = self.folder / f"{name}.engine"
        if path.exists():
            return path
        self.context.progress.status(f"building with {self.engine.name}")
        source, size = path.with_suffix(".onnx"), self.loaded.checkpoint.input.size
        write_graph(source, self._edited(kept))
        settings = BuildSettings(
            engine=replace(self.engine, batch_sizes=(self.batch_size,)),
            precision=self._precision(kept),
            image_size=size,
        )
        source = typed_source(settings, source, path.with_suffix(".half.onnx"))
        kept_timings = BuildInputs(memo=self.context.memo, note=self.context.progress.note)
        build_engine(source, path, settings, kept_timings)
        return path

    def _precision(self, kept: frozenset[str] | None) -> Precision:
        if kept is None:
            return self.engine.float_precision
        return cast("Precision", self.loaded.require_scales().number_format.name)

    def _edited(self, kept: frozenset[str] | None) -> onnx.ModelProto:
        scales, plan = self.loaded.require_scales(), None
        if kept is not None:
            planned = planned_precisions(scales.operations(), kept, scales.number_format)
            plan = PrecisionPlan(operations=planned, reason="")
        return engine_graph(
            self._graph,
            None if plan is None else scales,
            plan,
            placement=engine_spec(self.engine.name).placement,
            signed_input=self.loaded.checkpoint.input.signed,
            half=False,
            simplified=True,
        )

    def _timed(self, engines: dict[str, Path]) -> dict[str, float]:
        """The fastest whole batch of each engine, timed in turn."""
        with ExitStack() as stack:
            loaded = {name: self._loaded(path, stack) for name, path in engines.items()}
            found = measure_latency(
                {name: partial(engine.run, self._images) for name, engine in loaded.items()},
                num_warmup=self.num_warmup,
                num_runs=self.num_runs,
                progress=self.context.progress,
            )
        return {name: latency.fastest for name, latency in found.items()}

    def _times(self, path: Path, whole: float) -> EngineTimes:
        with ExitStack() as stack:
            layers = self._loaded(path, stack).profile(self._images, self.num_runs)
        times = operation_times(layers, operation_aliases(self._graph))
        return EngineTimes(whole=whole, operations=times.milliseconds, elsewhere=times.elsewhere)

    def _loaded(self, path: Path, stack: ExitStack) -> Engine:
        engine = load_engine(self.engine.name, path)
        stack.callback(engine.close)
        return engine
