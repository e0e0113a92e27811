"""TensorRT on an NVIDIA GPU, versions 8.6 to 11: Polygraphy, its Python API, and cuda-python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorrt as trt
from cuda.bindings import runtime as cuda_runtime

from quantpipe.engines.contract import BuildInputs, BuildSettings, Platform
from quantpipe.engines.engine_file import (
    EngineFile,
    EngineHeader,
    read_engine_file,
    require_platform,
    write_engine_file,
)
from quantpipe.engines.tensorrt.build import build_plan, cache_for
from quantpipe.engines.tensorrt.cuda import Cuda
from quantpipe.engines.tensorrt.run import TensorRtEngine
from quantpipe.engines.tensorrt.spec import SPEC, TensorRtSettings
from quantpipe.engines.tensorrt.timing_cache import TimingCache
from quantpipe.engines.tensorrt.trtexec import TrtexecFiles, trtexec_commands
from quantpipe.engines.tensorrt.version import tensorrt_version
from quantpipe.files import write_atomic
from quantpipe.graph.onnx_source import OnnxSource, read_onnx_source

_BLOB, _TIMINGS = "plan", "kernel_timings"
CALIBRATION_CACHE = "calibration.cache"


def build(
    onnx_path: Path,
    engine_path: Path,
    settings: BuildSettings[TensorRtSettings],
    platform: Platform,
    inputs: BuildInputs,
) -> None:
    """Builds a plan, writes the engine file, and beside it the ``trtexec`` lines that do the same.

    Raises:
        ArtifactError: TensorRT does not parse the model.
        MachineError: This version cannot do what is asked for, or the build fails.
    """
    source = read_onnx_source(
        onnx_path, image_size=settings.image_size, batch_sizes=settings.engine.batch_sizes
    )
    plan = _plan(source, settings, platform, inputs)
    header = EngineHeader(
        platform=platform,
        settings=settings,
        onnx_sha256=source.sha256,
        num_classes=source.num_classes,
    )
    write_engine_file(engine_path, EngineFile(header=header, blobs={_BLOB: plan}))
    _write_for_trtexec(onnx_path, engine_path, source, settings, inputs.calibration_cache)


def load(engine_path: Path, platform: Platform) -> TensorRtEngine:
    """Loads an engine file.

    Raises:
        ArtifactError: It is damaged, or not a TensorRT engine.
        MachineError: It was built by another version or for other hardware.
    """
    engine = read_engine_file(engine_path, SPEC)
    require_platform(engine_path, engine.header, platform)
    cuda = Cuda(runtime=cuda_runtime, handle=_native_handle())
    return TensorRtEngine(trt, cuda, engine.blobs[_BLOB], engine.header)


def _plan(
    source: OnnxSource,
    settings: BuildSettings[TensorRtSettings],
    platform: Platform,
    inputs: BuildInputs,
) -> bytes:
    """Builds with the kernel timings of earlier builds, and keeps those of this one."""
    cache = None
    if inputs.memo is not None:
        cache = TimingCache(folder=inputs.memo / _TIMINGS, warn=inputs.note)
    timings = b"" if cache is None else cache.load(platform)
    plan, measured = build_plan(
        trt, source, settings, calibration_cache=inputs.calibration_cache, timings=timings
    )
    if cache is not None and measured not in (b"", timings):
        cache.save(platform, measured)
    return plan


def _native_handle() -> Callable[[Any], int]:
    """Returns the function that CUDA 13 asks for in place of ``int``."""
    try:
        from cuda.bindings.utils import get_cuda_native_handle
    except ImportError:
        return int
    handle: Callable[[Any], int] = get_cuda_native_handle
    return handle


def _write_for_trtexec(
    onnx_path: Path,
    engine_path: Path,
    source: OnnxSource,
    settings: BuildSettings[TensorRtSettings],
    calibration_cache: str | None,
) -> None:
    """Writes the lines, and beside them the calibration cache that they name."""
    version = tensorrt_version(trt.__version__)
    if calibration_cache is not None:
        text = cache_for(version, calibration_cache)
        write_atomic(engine_path.with_name(CALIBRATION_CACHE), text.encode())
    lines = [
        line
        for size in settings.engine.batch_sizes
        for line in trtexec_commands(
            version,
            settings,
            TrtexecFiles(
                onnx=onnx_path.name,
                plan=f"{engine_path.stem}.batch{size}.plan",
                timing_cache=f"{engine_path.stem}.timing",
                calibration_cache=None if calibration_cache is None else CALIBRATION_CACHE,
            ),
            input_name=source.input_name,
            dynamic=source.batch is None,
            batch_size=size,
        )
    ]
    write_atomic(engine_path.with_suffix(".trtexec.txt"), ("\n".join(lines) + "\n").encode())
