"""The seam between quantpipe and an inference library: what an engine is, which there are.

Nothing here imports an inference library, so that a pipeline is validated in no time; the module of
an engine, the only importer of its library, is imported when one is built or loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from quantpipe.engines import hardware
from quantpipe.engines.profile import LayerTime
from quantpipe.engines.tensorrt.timing_cache import TimingCache
from quantpipe.engines.tensorrt.version import DISTRIBUTIONS as TENSORRT
from quantpipe.errors import ConfigurationError, MachineError, nearest

Precision = Literal["f32", "half", "int8"]
FloatPrecision = Literal["f32", "half"]
BuilderApi = Literal["polygraphy", "api"]
Mode = Literal["latency", "throughput"]
Images = NDArray[np.float32]
Predictions = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """How an engine is built from an ONNX file.

    Attributes:
        precision: ``int8`` means that the graph carries Q/DQ; ``half`` is FP16 on GPUs and bf16 on
            processors.
        float_precision: What an ``int8`` engine runs its remaining float operations in.
        image_size: Side of the square input in pixels.
        batch_sizes: Batch sizes it is optimized for, ascending; others are split and padded.
        mode: ``latency`` computes one batch at a time as fast as it can; ``throughput`` several at
            once, each more slowly.
        num_streams: How many at once in ``throughput``; 0 leaves it to the library.
        num_threads: Processor threads an engine uses; 0 leaves it to the library.
        workspace_mib: Scratch memory a GPU builder may use, in MiB.
        optimization_level: How long a GPU builder searches, 0 to 5.
        calibration_cache: Text of a TensorRT <= 10 calibration cache, for a graph without Q/DQ.
        builder: Through what a GPU builder is told all this: Polygraphy or the plain API.
        timing_cache: Where a GPU builder finds and keeps what it measured of its kernels.
    """

    precision: Precision
    float_precision: FloatPrecision
    image_size: int
    batch_sizes: tuple[int, ...]
    mode: Mode
    num_streams: int
    num_threads: int
    workspace_mib: int
    optimization_level: int
    calibration_cache: str | None = None
    builder: BuilderApi = "api"
    timing_cache: TimingCache | None = None

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ConfigurationError(
                f"batch sizes {list(self.batch_sizes)} are not all positive", path="batch_sizes"
            )
        if tuple(sorted(set(self.batch_sizes))) != self.batch_sizes:
            raise ConfigurationError(
                f"batch sizes {list(self.batch_sizes)} are not ascending", path="batch_sizes"
            )


@dataclass(frozen=True, kw_only=True)
class EngineLayer:
    """A layer of a built engine, as the library reports it.

    Attributes:
        name: The library's name, which holds the name of the ONNX node where the library keeps it.
        kind: The library's layer type (``Convolution``, ``QLinearConv``, ...).
        precision: ``int8``, ``f32``, ``bf16``, ``f16``, or the library's own word for others.
        quantizable: Whether it is a convolution, transposed convolution or max-pool.
    """

    name: str
    kind: str
    precision: str
    quantizable: bool


class Engine(Protocol):
    """A built network, ready to run."""

    def run(self, images: Images) -> Predictions:
        """Returns predictions (B, A, 5 + classes) for images (B, 3, S, S), RGB in 0..1."""
        ...

    def run_all(self, batches: Iterable[Images]) -> list[Predictions]:
        """Returns the predictions of each batch, several at once where it was built to."""
        ...

    def layers(self) -> Sequence[EngineLayer]:
        """Returns the layers that run, with the precision the library chose for each."""
        ...

    def profile(self, images: Images, num_runs: int) -> Sequence[LayerTime]:
        """Returns the least time of each layer that runs, over runs on one batch.

        The file that the engine was loaded from has to be there still.

        Args:
            images: (B, 3, S, S), B one of the engine's batch sizes.
            num_runs: How many runs are counted; one more before them is not.
        """
        ...

    def close(self) -> None:
        """Frees the library's memory; the engine cannot run any more."""
        ...


class Backend(Protocol):
    """What the module of an engine offers."""

    def build(self, onnx_path: Path, engine_path: Path, settings: BuildSettings) -> None:
        """Builds an engine from an ONNX file and writes it as one file."""
        ...

    def load(self, engine_path: Path) -> Engine:
        """Loads what :meth:`build` wrote, on the same hardware and library version."""
        ...


@dataclass(frozen=True, kw_only=True)
class EngineKind:
    """An entry of :data:`ENGINES`.

    Attributes:
        packages: Importable modules that must be there.
        distributions: Names of the library's distributions; the first one found tells the version.
        install: The line that installs the library.
        precisions: What the library runs faster than, or as, float32.
        modes: What it is built for.
        hardware: Names what an engine of this kind is tied to; None where that is missing.
        missing_hardware: What to say then.
        backend: Imports the module that builds and loads.
        needs: Distributions that must be there too, where importable modules do not tell.
        tied_to: Distributions whose versions an engine is tied to besides the library's, if there.
    """

    packages: tuple[str, ...]
    distributions: tuple[str, ...]
    install: str
    precisions: tuple[Precision, ...]
    modes: tuple[Mode, ...]
    hardware: Callable[[], str | None]
    missing_hardware: str
    backend: Callable[[], Backend]
    needs: tuple[str, ...] = ()
    tied_to: tuple[str, ...] = ()


def _openvino() -> Backend:
    from quantpipe.engines.openvino import backend as openvino

    return openvino


def _onnxruntime() -> Backend:
    from quantpipe.engines.onnxruntime import processor as onnxruntime

    return onnxruntime


def _tensorrt() -> Backend:
    from quantpipe.engines.tensorrt import backend as tensorrt

    return tensorrt


def _onnxruntime_gpu(name: str, plugin: str | None = None) -> Callable[[], Backend]:
    def load() -> Backend:
        import onnxruntime

        from quantpipe.engines.onnxruntime.gpu import GpuBackend

        module = None if plugin is None else import_module(plugin)
        return GpuBackend(kind=name, ort=onnxruntime, plugin=module)

    return load


_NO_GPU = "no NVIDIA GPU answers here (nvidia-smi); choose another engine"
_INSTALL_GPU = "pip uninstall -y onnxruntime; pip install 'onnxruntime-gpu>=1.22'"
_RTX, _RTX_WHEEL = "onnxruntime_ep_nv_tensorrt_rtx", "onnxruntime-ep-nv-tensorrt-rtx"

ENGINES: Mapping[str, EngineKind] = {
    "openvino": EngineKind(
        packages=("openvino",),
        distributions=("openvino",),
        install="pip install 'openvino>=2025.2'",
        precisions=("f32", "half", "int8"),
        modes=("latency", "throughput"),
        hardware=hardware.processor,
        missing_hardware="",
        backend=_openvino,
    ),
    "onnxruntime": EngineKind(
        packages=("onnxruntime",),
        distributions=("onnxruntime", "onnxruntime-gpu"),
        install="pip install 'onnxruntime>=1.22'",
        precisions=("f32", "int8"),
        modes=("latency", "throughput"),
        hardware=hardware.processor,
        missing_hardware="",
        backend=_onnxruntime,
    ),
    "tensorrt": EngineKind(
        packages=("tensorrt", "cuda.bindings"),
        distributions=TENSORRT,
        install="pip install 'quantpipe[tensorrt]'",
        precisions=("f32", "half", "int8"),
        modes=("latency",),
        hardware=hardware.nvidia_gpu,
        missing_hardware=_NO_GPU,
        backend=_tensorrt,
    ),
    "onnxruntime_cuda": EngineKind(
        packages=("onnxruntime",),
        distributions=("onnxruntime-gpu",),
        install=_INSTALL_GPU,
        precisions=("f32", "half"),
        modes=("latency",),
        hardware=hardware.nvidia_gpu,
        missing_hardware=_NO_GPU,
        backend=_onnxruntime_gpu("onnxruntime_cuda"),
        needs=("onnxruntime-gpu",),
    ),
    "onnxruntime_tensorrt": EngineKind(
        packages=("onnxruntime",),
        distributions=("onnxruntime-gpu",),
        install=f"{_INSTALL_GPU} tensorrt",
        precisions=("f32", "half", "int8"),
        modes=("latency",),
        hardware=hardware.nvidia_gpu,
        missing_hardware=_NO_GPU,
        backend=_onnxruntime_gpu("onnxruntime_tensorrt"),
        needs=("onnxruntime-gpu",),
        tied_to=TENSORRT,
    ),
    "onnxruntime_tensorrt_rtx": EngineKind(
        packages=("onnxruntime", _RTX),
        distributions=("onnxruntime",),
        install=f"pip uninstall -y onnxruntime-gpu; pip install onnxruntime {_RTX_WHEEL}",
        precisions=("f32", "half", "int8"),
        modes=("latency",),
        hardware=hardware.nvidia_gpu,
        missing_hardware=_NO_GPU,
        backend=_onnxruntime_gpu("onnxruntime_tensorrt_rtx", _RTX),
        tied_to=(_RTX_WHEEL, f"{_RTX_WHEEL}-cu13", f"{_RTX_WHEEL}-cu12"),
    ),
}


def engine_kind(name: str) -> EngineKind:
    """Returns the entry of an engine.

    Raises:
        ConfigurationError: There is no engine of that name.
    """
    if name not in ENGINES:
        raise ConfigurationError(
            f"unknown engine '{name}'", path="engine", hint=nearest(name, ENGINES)
        )
    return ENGINES[name]


def availability(name: str) -> str | None:
    """Returns None if the engine can be used on this machine, or else why not and what to do."""
    kind = engine_kind(name)
    missing = [package for package in kind.packages if not _installed(package)]
    missing += [name for name in kind.needs if _version([name]) is None]
    if missing:
        return f"engine '{name}' needs {', '.join(missing)}; install it with: {kind.install}"
    if kind.hardware() is None:
        return f"engine '{name}': {kind.missing_hardware}"
    return None


def identity(name: str) -> Mapping[str, str]:
    """Returns what an engine is tied to: the library's version and the hardware.

    Raises:
        MachineError: The library or its hardware is not there.
    """
    reason = availability(name)
    if reason is not None:
        raise MachineError(reason)
    kind = engine_kind(name)
    place = kind.hardware()
    assert place is not None
    others = [f"{other} {found}" for other in kind.tied_to if (found := _version([other]))]
    versions = [_version(kind.distributions) or "unknown", *others]
    return {"library": f"{name} {', '.join(versions)}", "hardware": place}


def build_engine(name: str, onnx_path: Path, engine_path: Path, settings: BuildSettings) -> None:
    """Builds an engine for this machine from an ONNX file.

    Raises:
        ConfigurationError: The engine does not know the precision or the mode.
        MachineError: The library or its hardware is not there, or it fails.
        ArtifactError: The ONNX file is not what the library takes.
    """
    require_precision(name, settings.precision)
    require_mode(name, settings.mode)
    _require_available(name)
    _backend(name).build(onnx_path, engine_path, settings)


def load_engine(name: str, engine_path: Path) -> Engine:
    """Loads an engine that :func:`build_engine` wrote.

    Raises:
        ArtifactError: The file is damaged or of another engine.
        MachineError: It was built elsewhere, or the library is not there.
    """
    _require_available(name)
    return _backend(name).load(engine_path)


def require_precision(name: str, precision: Precision) -> None:
    """Refuses a precision that an engine has no kernels for.

    Raises:
        ConfigurationError: With the precisions that it has.
    """
    known = engine_kind(name).precisions
    if precision not in known:
        raise ConfigurationError(
            f"engine '{name}' has no '{precision}' kernels on this kind of hardware",
            path="precision",
            hint=f"known: {', '.join(known)}",
        )


def require_mode(name: str, mode: Mode) -> None:
    """Refuses a mode that an engine has not.

    Raises:
        ConfigurationError: With what does the same there.
    """
    if mode not in engine_kind(name).modes:
        raise ConfigurationError(
            f"engine '{name}' has no '{mode}' mode",
            path="mode",
            hint="give mode=latency and a larger batch size",
        )


def float_layers(layers: Sequence[EngineLayer]) -> tuple[EngineLayer, ...]:
    """Returns the layers that could have run in INT8 and do not."""
    return tuple(layer for layer in layers if layer.quantizable and layer.precision != "int8")


def _backend(name: str) -> Backend:
    """The module of an engine; its library may be installed and yet miss one that it needs."""
    kind = engine_kind(name)
    try:
        return kind.backend()
    except (ImportError, OSError) as error:
        raise MachineError(
            f"engine '{name}' cannot be imported: {error}",
            hint=f"install it anew with: {kind.install}",
        ) from error


def _require_available(name: str) -> None:
    reason = availability(name)
    if reason is not None:
        raise MachineError(reason)


def _installed(package: str) -> bool:
    try:
        return util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a dotted name is not there
        return False


def _version(distributions: Sequence[str]) -> str | None:
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None
