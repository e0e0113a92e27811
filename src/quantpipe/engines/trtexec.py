"""The command line that builds and times the same engine with NVIDIA's own tool."""

from __future__ import annotations

import shlex

from quantpipe.engines.engine import BuildSettings
from quantpipe.engines.tensorrt_version import TensorRtVersion


def trtexec_command(
    version: TensorRtVersion,
    settings: BuildSettings,
    *,
    onnx_name: str,
    plan_name: str,
    input_name: str,
    batch_size: int,
    calibration_cache_name: str | None = None,
) -> str:
    """Returns one shell line for a batch size.

    It times as one stream of CUDA graphs without copies, which 11 does by default and
    8 and 10 have to be told, so that figures of different versions compare.
    """
    size = settings.image_size
    arguments = [
        "trtexec",
        f"--onnx={onnx_name}",
        f"--saveEngine={plan_name}",
        f"--shapes={input_name}:{batch_size}x3x{size}x{size}",
        f"--memPoolSize=workspace:{settings.workspace_mib}",
        f"--builderOptimizationLevel={settings.optimization_level}",
        "--noTF32",
        "--profilingVerbosity=detailed",
        "--infStreams=1",
        "--avgRuns=10",
        "--percentile=50,95,99",
        *_precision_arguments(version, settings),
    ]
    if calibration_cache_name is not None:
        arguments.append(f"--calib={calibration_cache_name}")
    if version.major < 11:
        arguments += ["--useCudaGraph", "--noDataTransfers", "--useSpinWait"]
    return shlex.join(arguments)


def _precision_arguments(version: TensorRtVersion, settings: BuildSettings) -> list[str]:
    if version.types_in_graph:
        return ["--stronglyTyped"] if version.major == 10 else []
    floats = settings.float_precision if settings.precision == "int8" else settings.precision
    int8 = ["--int8"] if settings.precision == "int8" else []
    return [*int8, "--fp16"] if floats == "half" else int8
