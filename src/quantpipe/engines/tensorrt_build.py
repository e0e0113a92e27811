"""Building a TensorRT plan. The library is an argument, so that a stand-in can take its place."""

from __future__ import annotations

from typing import Any

from quantpipe.engines.engine import BuildSettings
from quantpipe.engines.onnx_source import OnnxSource
from quantpipe.engines.tensorrt_version import TensorRtVersion, tensorrt_version
from quantpipe.errors import ArtifactError, MachineError

_MIB = 1 << 20


def build_plan(trt: Any, source: OnnxSource, settings: BuildSettings) -> bytes:
    """Builds a plan with one optimisation profile per batch size.

    Args:
        trt: The ``tensorrt`` module, 8.6 or newer.
        source: The ONNX model, quantized by Q/DQ or by ``settings.calibration_cache``.
        settings: What to build.

    Raises:
        ArtifactError: TensorRT does not parse the model.
        MachineError: This version cannot do what is asked for, or the build fails.
    """
    version = tensorrt_version(trt.__version__)
    _require_possible(version, settings)
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, version))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(source.content):
        problems = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise ArtifactError(f"TensorRT cannot parse the model: {'; '.join(problems)}")
    config = _config(trt, builder, version, settings)
    if source.batch is None:
        _add_profiles(builder, config, source.input_name, settings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise MachineError(
            "TensorRT could not build the engine",
            hint="its log is above; more workspace_mib or smaller batch_sizes may help",
        )
    return bytes(plan)


def _require_possible(version: TensorRtVersion, settings: BuildSettings) -> None:
    if settings.calibration_cache is None:
        return
    if version.types_in_graph:
        raise MachineError(
            f"TensorRT {version.major}.{version.minor} is used with the types in the graph, which "
            "a calibration cache cannot give",
            hint="export with Q/DQ instead",
        )


def _network_flags(trt: Any, version: TensorRtVersion) -> int:
    """Returns the creation flags: explicit batch up to 8, strong typing as an option in 10."""
    flags = trt.NetworkDefinitionCreationFlag
    if version.major < 10:
        return 1 << int(flags.EXPLICIT_BATCH)
    if version.major == 10 and version.types_in_graph:
        return 1 << int(flags.STRONGLY_TYPED)
    return 0


def _config(trt: Any, builder: Any, version: TensorRtVersion, settings: BuildSettings) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib * _MIB)
    config.builder_optimization_level = settings.optimization_level
    # The inspector tells the precision of layers only if the plan holds them in detail.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # float32 means float32: TensorFloat-32 keeps ten bits of it.
    config.clear_flag(trt.BuilderFlag.TF32)
    if not version.types_in_graph:
        _allow_precisions(trt, config, settings)
    return config


def _allow_precisions(trt: Any, config: Any, settings: BuildSettings) -> None:
    floats = settings.float_precision if settings.precision == "int8" else settings.precision
    if settings.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    if floats == "half":
        config.set_flag(trt.BuilderFlag.FP16)
    if settings.calibration_cache is not None:
        config.int8_calibrator = _cached_calibrator(trt, settings.calibration_cache)


def _cached_calibrator(trt: Any, text: str) -> Any:
    """Returns a calibrator of the class that the cache names; it has no images, only the cache."""
    minmax = text.partition("\n")[0].strip().endswith("MinMaxCalibration")
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


def _add_profiles(builder: Any, config: Any, input_name: str, settings: BuildSettings) -> None:
    for size in settings.batch_sizes:
        shape = (size, 3, settings.image_size, settings.image_size)
        profile = builder.create_optimization_profile()
        profile.set_shape(input_name, shape, shape, shape)
        config.add_optimization_profile(profile)
