"""TensorRT on an NVIDIA GPU, versions 8.6 to 11, through its Python API and cuda-python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorrt as trt
from cuda.bindings import runtime as cuda_runtime

from quantpipe.engines.engine import BuildSettings, identity
from quantpipe.engines.engine_file import (
    EngineFile,
    header_for,
    read_engine_file,
    require_place,
    write_engine_file,
)
from quantpipe.engines.onnx_source import OnnxSource, read_onnx_source
from quantpipe.engines.tensorrt_build import build_plan
from quantpipe.engines.tensorrt_run import Cuda, TensorRtEngine
from quantpipe.engines.tensorrt_version import tensorrt_version
from quantpipe.engines.trtexec import trtexec_command
from quantpipe.files import write_atomic

_BLOB = "plan"


def build(onnx_path: Path, engine_path: Path, settings: BuildSettings) -> None:
    """Builds a plan, writes the engine file, and beside it the ``trtexec`` lines that do the same.

    Raises:
        ArtifactError: TensorRT does not parse the model.
        MachineError: This version cannot do what is asked for, or the build fails.
    """
    source = read_onnx_source(
        onnx_path, image_size=settings.image_size, batch_sizes=settings.batch_sizes
    )
    header = header_for("tensorrt", identity("tensorrt"), settings, source.sha256)
    plan = build_plan(trt, source, settings)
    write_engine_file(engine_path, EngineFile(header=header, blobs={_BLOB: plan}))
    lines = _trtexec_lines(onnx_path, engine_path, source, settings)
    write_atomic(engine_path.with_suffix(".trtexec.txt"), lines.encode())


def load(engine_path: Path) -> TensorRtEngine:
    """Loads an engine file.

    Raises:
        ArtifactError: It is damaged, or not a TensorRT engine.
        MachineError: It was built by another version or for other hardware.
    """
    engine = read_engine_file(engine_path, "tensorrt")
    require_place(engine_path, engine.header, identity("tensorrt"))
    cuda = Cuda(runtime=cuda_runtime, handle=_native_handle())
    header = engine.header
    return TensorRtEngine(trt, cuda, engine.blobs[_BLOB], header.batch_sizes, header.image_size)


def _native_handle() -> Callable[[Any], int]:
    """Returns the function that CUDA 13 asks for in place of ``int``."""
    try:
        from cuda.bindings.utils import get_cuda_native_handle
    except ImportError:
        return int
    handle: Callable[[Any], int] = get_cuda_native_handle
    return handle


def _trtexec_lines(
    onnx_path: Path, engine_path: Path, source: OnnxSource, settings: BuildSettings
) -> str:
    version = tensorrt_version(trt.__version__)
    lines = [
        trtexec_command(
            version,
            settings,
            onnx_name=onnx_path.name,
            plan_name=f"{engine_path.stem}.batch{size}.plan",
            input_name=source.input_name,
            batch_size=size,
            calibration_cache_name=None
            if settings.calibration_cache is None
            else "calibration.cache",
        )
        for size in settings.batch_sizes
    ]
    return "\n".join(lines) + "\n"
