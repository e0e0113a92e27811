"""ONNX Runtime on an NVIDIA GPU: a graph, or what a provider compiled of it, kept in one file.

Not run on hardware: what the library is told is tested against a stand-in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from quantpipe.engines.batching import run_in_batches
from quantpipe.engines.contract import (
    BuildInputs,
    BuildSettings,
    EngineLayer,
    Images,
    LayerTime,
    Platform,
    Predictions,
)
from quantpipe.engines.engine_file import (
    EngineFile,
    EngineHeader,
    read_engine_file,
    require_platform,
    write_engine_file,
)
from quantpipe.engines.engine_spec import EngineSpec
from quantpipe.engines.onnxruntime.kernels import (
    Event,
    failures,
    kernel_events,
    kernel_name,
    kernel_times,
)
from quantpipe.engines.onnxruntime.providers import PROVIDERS, Job, Provider, open_session
from quantpipe.engines.onnxruntime.spec import (
    CUDA,
    RTX_PLUGIN,
    TENSORRT,
    TENSORRT_RTX,
    GpuSettings,
    TensorRtProviderSettings,
)
from quantpipe.engines.onnxruntime.written_graph import folder_beside, require_room
from quantpipe.errors import ArtifactError, MachineError
from quantpipe.graph.detections import predictions_from
from quantpipe.graph.onnx_source import read_onnx_source

_SPECS: Mapping[str, EngineSpec] = {spec.name: spec for spec in (CUDA, TENSORRT, TENSORRT_RTX)}
_BLOB = "model.onnx"
_QUANTIZABLE = frozenset({"Conv", "FusedConv", "NhwcConv", "ConvTranspose", "MaxPool"})
_PRECISIONS = {"float": "fp32", "float16": "fp16", "int8": "int8", "uint8": "int8"}


def backend(name: str) -> GpuBackend:
    """Returns what builds and loads the engines of a provider, by the engine's name.

    Raises:
        ImportError: ONNX Runtime, or the provider's plugin, cannot be imported.
    """
    plugin = import_module(RTX_PLUGIN) if PROVIDERS[name].plugin else None
    return GpuBackend(spec=_SPECS[name], ort=import_module("onnxruntime"), plugin=plugin)


@dataclass(frozen=True, kw_only=True)
class GpuBackend:
    """Builds and loads engines of one execution provider.

    Attributes:
        spec: Of the engine; its name is one of the providers'.
        ort: The ``onnxruntime`` module.
        plugin: The module of a provider that is a plugin; None for others.
    """

    spec: EngineSpec
    ort: Any
    plugin: Any

    @property
    def provider(self) -> Provider:
        """What ONNX Runtime computes on."""
        return PROVIDERS[self.spec.name]

    def build(
        self,
        onnx_path: Path,
        engine_path: Path,
        settings: BuildSettings[GpuSettings],
        platform: Platform,
        inputs: BuildInputs,  # noqa: ARG002 - there is none that ONNX Runtime takes
    ) -> None:
        """Compiles an ONNX file where the provider does that, and writes the engine file.

        Raises:
            ArtifactError: ONNX Runtime cannot read it.
            MachineError: The provider does not start here.
            OSError: The disk takes no graph of its size.
        """
        source = read_onnx_source(
            onnx_path, image_size=settings.image_size, batch_sizes=settings.engine.batch_sizes
        )
        job = _job(settings, source.input_name, _workspace(settings.engine))
        with folder_beside(engine_path) as folder:
            context = folder / _BLOB
            wanted = context if self.provider.compiles else None
            try:
                open_session(
                    self.ort, self.plugin, self.provider, source.content, job, context_path=wanted
                )
            except failures(self.ort) as error:
                if wanted is not None:
                    require_room(wanted, source.content)
                raise ArtifactError(f"ONNX Runtime: {error}", path=onnx_path) from error
            blob = context.read_bytes() if context.exists() else source.content
        header = EngineHeader(
            platform=platform,
            settings=settings,
            onnx_sha256=source.sha256,
            num_classes=source.num_classes,
        )
        write_engine_file(engine_path, EngineFile(header=header, blobs={_BLOB: blob}))

    def load(self, engine_path: Path, platform: Platform) -> GpuEngine:
        """Loads an engine file.

        Raises:
            ArtifactError: It is damaged, or of another engine.
            MachineError: It was built by another version or for other hardware.
        """
        engine = read_engine_file(engine_path, self.spec)
        require_platform(engine_path, engine.header, platform)
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

    def __init__(self, backend: GpuBackend, content: bytes, header: EngineHeader[GpuSettings]):
        self._backend, self._content = backend, content
        self._settings, self._num_classes = header.settings, header.num_classes
        graph = onnx.load_model_from_string(content).graph
        self._job = _job(header.settings, graph.input[0].name, None)
        self._session: Any = self._opened()

    def run(self, images: Images) -> Predictions:
        """Returns predictions (B, A, 5 + classes) for images (B, 3, H, W)."""
        return run_in_batches(self._run_batch, images, self._settings.engine.batch_sizes)

    def run_all(self, batches: Iterable[Images]) -> list[Predictions]:
        """Returns the predictions of each batch, one after another: one fills the GPU."""
        return [self.run(images) for images in batches]

    def layers(self) -> Sequence[EngineLayer]:
        """Returns the kernels that run on one batch; what was compiled as one is one."""
        shape = (self._settings.engine.batch_sizes[0], 3, *self._settings.image_size)
        images = np.zeros(shape, np.float32)
        events = kernel_events(self._opened, self._job.input_name, images, 1)
        return tuple(_layer(event) for event in events)

    def profile(self, images: Images, num_runs: int) -> Sequence[LayerTime]:
        """Returns the least time of each kernel."""
        return kernel_times(self._opened, self._job.input_name, images, num_runs)

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
        return predictions_from(outputs, self._num_classes)


def _workspace(engine: GpuSettings) -> int | None:
    return engine.workspace_mib if isinstance(engine, TensorRtProviderSettings) else None


def _job(settings: BuildSettings[GpuSettings], input_name: str, workspace: int | None) -> Job:
    return Job(
        int8=settings.precision == "int8",
        half=settings.float_precision == "half",
        input_name=input_name,
        image_size=settings.image_size,
        batch_sizes=settings.engine.batch_sizes,
        workspace_mib=workspace,
    )


def _layer(event: Event) -> EngineLayer:
    """Reads a kernel and the type of its first input; the provider's own has none to tell."""
    details = event.get("args", {})
    kind = str(details.get("op_name", "unknown"))
    kinds = [name for entry in details.get("input_type_shape", ())[:1] for name in entry]
    precision = kinds[0] if kinds else "unknown"
    return EngineLayer(
        name=kernel_name(event),
        kind=kind,
        precision=_PRECISIONS.get(precision, precision),
        quantizable=kind in _QUANTIZABLE,
    )
