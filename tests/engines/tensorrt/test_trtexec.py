from __future__ import annotations

from typing import Any

import pytest

from quantpipe.engines.tensorrt.trtexec import TrtexecFiles, trtexec_commands
from quantpipe.engines.tensorrt.version import tensorrt_version

OLD, MIDDLE, TYPED, NEW = "8.6.1", "10.3.0", "10.16.1", "11.4.0.106"
# The table of what each version's trtexec knows, by its own option parser.
REMOVED_IN_11 = {"--fp16", "--int8", "--best", "--calib", "--bf16", "--precisionConstraints"}
DEFAULT_IN_11 = {"--useCudaGraph", "--noDataTransfers", "--useSpinWait", "--stronglyTyped"}


def commands(
    tiny: Any,
    version: str,
    *,
    onnx: str = "model.onnx",
    dynamic: bool = True,
    cache: str | None = None,
    **changes: Any,
) -> tuple[list[str], list[str]]:
    build, time = trtexec_commands(
        tensorrt_version(version),
        tiny.settings("tensorrt", **{"precision": "int8", "float_precision": "half", **changes}),
        TrtexecFiles(
            onnx=onnx,
            plan="model.batch1.plan",
            timing_cache="model.timing",
            calibration_cache=cache,
        ),
        input_name="images",
        dynamic=dynamic,
        batch_size=1,
    )
    return build.split(" "), time.split(" ")


def names(arguments: list[str]) -> set[str]:
    return {argument.partition("=")[0] for argument in arguments}


@pytest.mark.parametrize(
    ("version", "has", "lacks"),
    [
        (OLD, {"--int8", "--fp16"}, {"--stronglyTyped", "--buildOnly", "--workspace"}),
        (MIDDLE, {"--int8", "--fp16"}, {"--stronglyTyped"}),
        (TYPED, {"--stronglyTyped"}, {"--int8", "--fp16", "--best"}),
        (NEW, {"--noTF32"}, REMOVED_IN_11 | DEFAULT_IN_11),
    ],
)
def test_it_is_told_what_its_version_knows(
    tiny: Any, version: str, has: set[str], lacks: set[str]
) -> None:
    build, time = commands(tiny, version)
    assert has <= names(build)
    assert not lacks & names(build + time)
    assert {"--memPoolSize=workspace:64", "--timingCacheFile=model.timing"} <= set(build)


@pytest.mark.parametrize("version", [OLD, MIDDLE, TYPED, NEW])
def test_figures_of_different_versions_compare(tiny: Any, version: str) -> None:
    """What 11 does by default is asked of the others; the rest is said to all alike."""
    _, time = commands(tiny, version)
    by_default = {"--useCudaGraph", "--noDataTransfers", "--useSpinWait"}
    assert names(time) & by_default == (set() if version == NEW else by_default)
    assert [argument for argument in time if argument not in by_default] == [
        "trtexec",
        "--loadEngine=model.batch1.plan",
        "--shapes=images:1x3x32x32",
        "--infStreams=1",
        "--warmUp=200",
        "--duration=3",
        "--iterations=10",
        "--avgRuns=10",
        "--percentile=50,95,99",
    ]


@pytest.mark.parametrize("version", [OLD, TYPED])
def test_a_calibration_cache_is_handed_on_and_typed_weakly(tiny: Any, version: str) -> None:
    build, _ = commands(tiny, version, cache="calibration.cache")
    assert {"--calib=calibration.cache", "--int8", "--fp16"} <= set(build)
    assert "--stronglyTyped" not in build


def test_a_fixed_batch_takes_no_shapes(tiny: Any) -> None:
    build, time = commands(tiny, NEW, dynamic=False)
    assert not {"--minShapes", "--optShapes", "--maxShapes", "--shapes"} & names(build + time)


def test_height_comes_before_width(tiny: Any) -> None:
    build, time = commands(tiny, NEW, image_size=(20, 52))
    assert "--optShapes=images:1x3x20x52" in build
    assert "--shapes=images:1x3x20x52" in time


def test_names_are_quoted_for_the_shell(tiny: Any) -> None:
    build, _ = commands(tiny, NEW, onnx="a b.onnx")
    assert "'--onnx=a b.onnx'" in " ".join(build)
