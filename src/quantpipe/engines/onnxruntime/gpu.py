"""ONNX Runtime on an NVIDIA GPU: a graph, or what a provider compiled of it, kept in one file.

Not run on hardware: what the library is told is tested against a stand-in.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from quantpipe.engines.batching import run_in_batches
from quantpipe.engines.engine import BuildSettings, EngineLayer, Images, Predictions, identity
from quantpipe.engines.engine_file import (
    EngineFile,
    EngineHeader,
    header_for,
    read_engine_file,
    require_place,
    write_engine_file,
)
from quantpipe.engines.onnxruntime.providers import PROVIDERS, Job, Provider, open_session
from quantpipe.engines.profile import LayerTime, fastest_times
from quantpipe.errors import ArtifactError, MachineError
from quantpipe.graph.detections import predictions_from
from quantpipe.graph.onnx_source import read_onnx_source

_BLOB = "model.onnx"
_KERNEL = "_kernel_time"
_QUANTIZABLE = frozenset({"Conv", "FusedConv", "NhwcConv", "ConvTranspose", "MaxPool"})
_PRECISIONS = {"float": "f32", "float16": "f16", "int8": "int8", "uint8": "int8"}


@dataclass(frozen=True, kw_only=True)
class GpuBackend:
    """Builds and loads engines of one execution provider.

    Attributes:
        kind: A name of :data:`quantpipe.engines.onnxruntime.providers.PROVIDERS`.
        ort: The ``onnxruntime`` module.
        plugin: The module of a provider that is a plugin; None for others.
    """

    kind: str
    ort: Any
    plugin: Any

    @property
    def provider(self) -> Provider:
        """What ONNX Runtime computes on."""
        return PROVIDERS[self.kind]

    def build(self, onnx_path: Path, engine_path: Path, settings: BuildSettings) -> None:
        """Compiles an ONNX file where the provider does that, and writes the engine file.

        Raises:
            ArtifactError: ONNX Runtime cannot read it.
            MachineError: The provider does not start here.
        """
        source = read_onnx_source(
            onnx_path, image_size=settings.image_size, batch_sizes=settings.batch_sizes
        )
        place = identity(self.kind)
        job = _job(settings, source.input_name, settings.workspace_mib)
        with tempfile.TemporaryDirectory() as folder:
            context = Path(folder) / _BLOB
            wanted = context if self.provider.compiles else None
            try:
                open_session(
                    self.ort, self.plugin, self.provider, source.content, job, context_path=wanted
                )
            except failures(self.ort) as error:
                raise ArtifactError(f"ONNX Runtime: {error}", path=onnx_path) from error
            blob = context.read_bytes() if context.exists() else source.content
        header = header_for(self.kind, place, settings, source.sha256, source.num_classes)
        write_engine_file(engine_path, EngineFile(header=header, blobs={_BLOB: blob}))

    def load(self, engine_path: Path) -> GpuEngine:
        """Loads an engine file.

        Raises:
            ArtifactError: It is damaged, or of another engine.
            MachineError: It was built by another version or for other hardware.
        """
        engine = read_engine_file(engine_path, self.kind)
        require_place(engine_path, engine.header, identity(self.kind))
        try:
            return GpuEngine(self, engine.blobs[_BLOB], engine.header)
        except failures(self.ort) as error:
            raise MachineError(
                f"ONNX Runtime cannot load it: {error}",
                path=engine_path,
                hint="build the engine again here from its ONNX file",
            ) from error


class GpuEngine:
    """A session on the first GPU that the provider takes."""

    def __init__(self, backend: GpuBackend, content: bytes, header: EngineHeader):
        self._backend, self._content, self._header = backend, content, header
        graph = onnx.load_model_from_string(content).graph
        self._job = _job(header, graph.input[0].name, None)
        self._session: Any = self._opened()

    def run(self, images: Images) -> Predictions:
        """Returns predictions (B, A, 5 + classes) for images (B, 3, S, S)."""
        return run_in_batches(self._run_batch, images, self._header.batch_sizes)

    def run_all(self, batches: Iterable[Images]) -> list[Predictions]:
        """Returns the predictions of each batch, one after another: one fills the GPU."""
        return [self.run(images) for images in batches]

    def layers(self) -> Sequence[EngineLayer]:
        """Returns the kernels that run on one batch; what was compiled as one is one."""
        shape = (self._header.batch_sizes[0], 3, *[self._header.image_size] * 2)
        return tuple(_layer(event) for event in self._events(np.zeros(shape, np.float32), 1))

    def profile(self, images: Images, num_runs: int) -> Sequence[LayerTime]:
        """Returns the least time of each kernel; a session counts from its start or not at all."""
        events = self._events(images, num_runs + 1)
        times = [
            LayerTime(name=_name(event), milliseconds=float(event["dur"]) / 1e3) for event in events
        ]
        size = len(times) // (num_runs + 1)
        return fastest_times([times[at : at + size] for at in range(size, len(times), size)])

    def close(self) -> None:
        """Releases the session."""
        self._session = None

    def _opened(self, profile_prefix: str | None = None) -> Any:
        backend = self._backend
        return open_session(
            backend.ort,
            backend.plugin,
            backend.provider,
            self._content,
            self._job,
            profile_prefix=profile_prefix,
        )

    def _run_batch(self, images: Images) -> Predictions:
        assert self._session is not None, "the engine is closed"
        outputs = self._session.run(None, {self._job.input_name: images})
        return predictions_from(outputs, self._header.num_classes)

    def _events(self, images: Images, num_runs: int) -> list[Mapping[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            session = self._opened(str(Path(folder) / "profile"))
            for _ in range(num_runs):
                session.run(None, {self._job.input_name: images})
            events = json.loads(Path(session.end_profiling()).read_bytes())
        return [e for e in events if e.get("cat") == "Node" and str(e["name"]).endswith(_KERNEL)]


def failures(ort: Any) -> tuple[type[Exception], ...]:
    """Returns the classes that the binding raises, which share no base but Exception."""
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
    state = ort.capi.onnxruntime_pybind11_state
    return tuple(getattr(state, name) for name in (*names, "RuntimeException", "EPFail"))


def _job(settings: BuildSettings | EngineHeader, input_name: str, workspace: int | None) -> Job:
    quantized = settings.precision == "int8"
    floats = settings.float_precision if quantized else settings.precision
    return Job(
        int8=quantized,
        half=floats == "half",
        input_name=input_name,
        image_size=settings.image_size,
        batch_sizes=settings.batch_sizes,
        workspace_mib=workspace,
    )


def _name(event: Mapping[str, Any]) -> str:
    return str(event["name"]).removesuffix(_KERNEL)


def _layer(event: Mapping[str, Any]) -> EngineLayer:
    """Reads a kernel and the type of its first input; the provider's own has none to tell."""
    details = event.get("args", {})
    kind = str(details.get("op_name", "unknown"))
    kinds = [name for entry in details.get("input_type_shape", ())[:1] for name in entry]
    precision = kinds[0] if kinds else "unknown"
    return EngineLayer(
        name=_name(event),
        kind=kind,
        precision=_PRECISIONS.get(precision, precision),
        quantizable=kind in _QUANTIZABLE,
    )
