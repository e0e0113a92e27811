"""The command lines that build and time the same engine with NVIDIA's own tool."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from quantpipe.engines.contract import BuildSettings
from quantpipe.engines.tensorrt.spec import TensorRtSettings
from quantpipe.engines.tensorrt.version import TensorRtVersion

# 11 does these by default and warns where it is told to.
_TIMED_AS_IN_11 = ("--useCudaGraph", "--noDataTransfers", "--useSpinWait")


@dataclass(frozen=True, kw_only=True)
class TrtexecFiles:
    """Names of files, in the folder that the lines are run in.

    Attributes:
        onnx: The model.
        plan: What the first line writes and the second reads; not an engine file of quantpipe.
        timing_cache: Kept between builds.
        calibration_cache: None where ranges are in the graph.
    """

    onnx: str
    plan: str
    timing_cache: str
    calibration_cache: str | None


def trtexec_commands(
    version: TensorRtVersion,
    settings: BuildSettings[TensorRtSettings],
    files: TrtexecFiles,
    *,
    input_name: str,
    dynamic: bool,
    batch_size: int,
) -> tuple[str, str]:
    """Returns two shell lines for a batch size: one that builds, and one that times.

    Everything that versions do differently by default is said outright, so that figures compare:
    one stream of CUDA graphs, without copies, with as many runs. ``GPU Compute Time`` is what the
    GPU takes, ``Throughput`` counts batches.

    Args:
        version: Of the ``trtexec`` that will run them.
        settings: As the engine was built.
        files: Names of files.
        input_name: The model's input.
        dynamic: Whether its batch is; a fixed one takes no shapes.
        batch_size: Images of a run.
    """
    height, width = settings.image_size
    shape = f"{input_name}:{batch_size}x3x{height}x{width}"
    build = _build_arguments(version, settings, files, shape if dynamic else None)
    time = _time_arguments(version, files, shape if dynamic else None)
    return shlex.join(["trtexec", *build]), shlex.join(["trtexec", *time])


def _build_arguments(
    version: TensorRtVersion,
    settings: BuildSettings[TensorRtSettings],
    files: TrtexecFiles,
    shape: str | None,
) -> list[str]:
    ranges = () if shape is None else ("min", "opt", "max")
    return [
        f"--onnx={files.onnx}",
        f"--saveEngine={files.plan}",
        *(f"--{end}Shapes={shape}" for end in ranges),
        *_precision_arguments(version, settings, cached=files.calibration_cache is not None),
        *([] if files.calibration_cache is None else [f"--calib={files.calibration_cache}"]),
        f"--memPoolSize=workspace:{settings.engine.workspace_mib}",
        f"--builderOptimizationLevel={settings.engine.optimization_level}",
        "--noTF32",
        "--profilingVerbosity=detailed",
        f"--timingCacheFile={files.timing_cache}",
        "--skipInference",
    ]


def _time_arguments(version: TensorRtVersion, files: TrtexecFiles, shape: str | None) -> list[str]:
    return [
        f"--loadEngine={files.plan}",
        *([] if shape is None else [f"--shapes={shape}"]),
        "--infStreams=1",
        "--warmUp=200",
        "--duration=3",
        "--iterations=10",
        "--avgRuns=10",
        "--percentile=50,95,99",
        *(_TIMED_AS_IN_11 if version.major < 11 else ()),
    ]


def _precision_arguments(
    version: TensorRtVersion, settings: BuildSettings[TensorRtSettings], *, cached: bool
) -> list[str]:
    if version.takes_types_from_graph(calibration_cache=cached):
        return ["--stronglyTyped"] if version.major == 10 else []
    int8 = ["--int8"] if settings.precision == "int8" else []
    return [*int8, "--fp16"] if settings.float_precision == "half" else int8
