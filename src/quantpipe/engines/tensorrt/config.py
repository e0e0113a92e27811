"""What a TensorRT builder is told, and telling it through TensorRT's plain Python API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class BuilderOptions:
    """What a builder is told; the same through either API.

    Attributes:
        flags: Precisions that a weakly typed network may use: of ``FP16`` and ``INT8``.
        workspace: Scratch memory in bytes.
        optimization_level: 0 to 5.
        input_name: The network's input.
        shapes: Of the input; each gets an optimization profile that takes it and nothing else.
        calibrator: An ``IInt8Calibrator`` where ranges come from a calibration cache.
        timings: A serialized timing cache to start from; may be empty.
    """

    flags: tuple[str, ...]
    workspace: int
    optimization_level: int
    input_name: str
    shapes: tuple[tuple[int, ...], ...]
    calibrator: Any
    timings: bytes


def builder_config(trt: Any, builder: Any, network: Any, options: BuilderOptions) -> Any:  # noqa: ARG001
    """Returns an ``IBuilderConfig``."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    config.builder_optimization_level = options.optimization_level
    # The inspector tells the precision of layers only if the plan holds them in detail.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # float32 means float32: TensorFloat-32 keeps ten bits of it.
    config.clear_flag(trt.BuilderFlag.TF32)
    for flag in options.flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    for shape in options.shapes:
        profile = builder.create_optimization_profile()
        profile.set_shape(options.input_name, shape, shape, shape)
        config.add_optimization_profile(profile)
    if options.calibrator is not None:
        config.int8_calibrator = options.calibrator
        config.set_calibration_profile(profile)
    _start_from(config, options.timings)
    return config


def serialized_network(builder: Any, network: Any, config: Any) -> Any | None:
    """Returns the plan as a buffer, or None where TensorRT could not build it."""
    return builder.build_serialized_network(network, config)


def _start_from(config: Any, timings: bytes) -> None:
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
