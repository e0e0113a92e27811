"""Building a TensorRT plan. The library is an argument, so that a stand-in can take its place."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from quantpipe.engines.contract import BuildSettings
from quantpipe.engines.tensorrt.builder_options import BuilderOptions
from quantpipe.engines.tensorrt.cuda import on_gpu
from quantpipe.engines.tensorrt.spec import TensorRtSettings
from quantpipe.engines.tensorrt.version import TensorRtVersion, tensorrt_version
from quantpipe.errors import ArtifactError, MachineError
from quantpipe.graph.onnx_source import OnnxSource

_MIB = 1 << 20
# Imported by who builds: what runs engines needs no Polygraphy.
_POLYGRAPHY = "quantpipe.engines.tensorrt.polygraphy"


def build_plan(
    trt: Any,
    source: OnnxSource,
    settings: BuildSettings[TensorRtSettings],
    *,
    calibration_cache: str | None = None,
    timings: bytes = b"",
) -> tuple[bytes, bytes]:
    """Builds a plan with one optimization profile per batch size.

    Args:
        trt: The ``tensorrt`` module, 8.6 or newer.
        source: The ONNX model, quantized by Q/DQ or by a calibration cache.
        settings: What to build.
        calibration_cache: Its text.
        timings: A timing cache of this version and hardware to start from.

    Returns:
        The plan, and the timing cache as it is after the build.

    Raises:
        ArtifactError: TensorRT does not parse the model.
        MachineError: This version cannot do what is asked for, or the build fails.
    """
    version = tensorrt_version(trt.__version__)
    cached = calibration_cache is not None
    require_possible(version, calibration_cache=cached)
    typed = version.takes_types_from_graph(calibration_cache=cached)
    logger = trt.Logger(trt.Logger.WARNING)
    trt.init_libnvinfer_plugins(logger, "")
    builder = on_gpu(trt.Builder, logger)
    network = builder.create_network(_network_flags(trt, version, typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(source.content):
        problems = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise ArtifactError(f"TensorRT cannot parse the model: {'; '.join(problems)}")
    polygraphy = import_module(_POLYGRAPHY)
    options = BuilderOptions(
        flags=() if typed else _precision_flags(settings),
        workspace=settings.engine.workspace_mib * _MIB,
        optimization_level=settings.engine.optimization_level,
        input_name=source.input_name,
        shapes=tuple((size, 3, *settings.image_size) for size in settings.engine.batch_sizes),
        calibrator=_calibrator(trt, version, calibration_cache),
        timings=timings,
    )
    config = polygraphy.builder_config(trt, builder, network, options)
    plan = polygraphy.serialized_network(builder, network, config)
    return bytes(plan), _timings(config)


def require_possible(version: TensorRtVersion, *, calibration_cache: bool) -> None:
    """Refuses a calibration cache where there is no implicit quantization.

    Raises:
        MachineError: With what to build from instead.
    """
    if calibration_cache and not version.implicit_quantization:
        raise MachineError(
            f"{version} has no implicit quantization, so it takes no calibration cache",
            hint="build from a graph with Q/DQ: pipelines=ptq, or inputs.onnx=export.ptq.onnx "
            "without inputs.calibration_cache",
        )


def cache_for(version: TensorRtVersion, text: str) -> str:
    """Returns a calibration cache with the version in its first line.

    TensorRT sets a cache of another version aside and asks for images instead.
    """
    header, _, ranges = text.partition("\n")
    algorithm = header.strip().rpartition("-")[2]
    return f"TRT-{version.number}-{algorithm}\n{ranges}"


def _network_flags(trt: Any, version: TensorRtVersion, typed: bool) -> int:
    """Returns the creation flags: explicit batch up to 9, strong typing as an option in 10."""
    flags = trt.NetworkDefinitionCreationFlag
    if version.major < 10:
        return 1 << int(flags.EXPLICIT_BATCH)
    if version.major == 10 and typed:
        return 1 << int(flags.STRONGLY_TYPED)
    return 0


def _precision_flags(settings: BuildSettings[TensorRtSettings]) -> tuple[str, ...]:
    half = ("FP16",) if settings.float_precision == "half" else ()
    return (*half, "INT8") if settings.precision == "int8" else half


def _calibrator(trt: Any, version: TensorRtVersion, cache: str | None) -> Any:
    """Returns a calibrator of the class that the cache names; it has no images, only the cache."""
    if cache is None:
        return None
    text = cache_for(version, cache)
    minmax = text.partition("\n")[0].endswith("MinMaxCalibration")
    base = trt.IInt8MinMaxCalibrator if minmax else trt.IInt8EntropyCalibrator2

    class CachedRanges(base):  # type: ignore[misc, valid-type]  # known at run time only
        def __init__(self) -> None:
            base.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:  # noqa: ARG002 - the library's signature
            return None

        def read_calibration_cache(self) -> bytes:
            return text.encode()

        def write_calibration_cache(self, cache: object) -> None:
            """The ranges are given; there is nothing to keep."""

    return CachedRanges()


def _timings(config: Any) -> bytes:
    cache = config.get_timing_cache()
    return b"" if cache is None else bytes(cache.serialize())
