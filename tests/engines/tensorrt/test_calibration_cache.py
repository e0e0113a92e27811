from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.precision_plans import all_int8

from quantpipe.engines.tensorrt.calibration_cache import (
    CalibrationCache,
    activation_ranges,
    calibration_cache_text,
    read_calibration_cache,
    write_calibration_cache,
)
from quantpipe.errors import ArtifactError


def _cache(amax: dict[str, float]) -> CalibrationCache:
    return CalibrationCache(version=8601, algorithm="EntropyCalibration2", amax=amax)


def test_the_text_is_the_one_tensorrt_writes() -> None:
    # 0x3c010a14 is the big-endian float32 of 1/127.
    text = calibration_cache_text(_cache({"images": 1.0}))
    assert text == "TRT-8601-EntropyCalibration2\nimages: 3c010204\n"
    assert np.frombuffer(bytes.fromhex("3c010204"), ">f4")[0] == np.float32(1 / 127)


def test_reading_is_writing_backwards_also_with_colons_in_names(tmp_path: Path) -> None:
    ranges = {"a:0": 1.5, "(Unnamed Layer* 3) [x]_output": 1e-30, "b": 127.0 * 2.0}
    write_calibration_cache(tmp_path / "c", _cache(ranges))
    cache = read_calibration_cache(tmp_path / "c")
    assert (cache.version, cache.algorithm) == (8601, "EntropyCalibration2")
    assert list(cache.amax) == list(ranges)
    np.testing.assert_allclose(list(cache.amax.values()), list(ranges.values()), rtol=1e-6)


def test_short_digits_are_padded_on_the_left(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("TRT-8601-MinMaxCalibration\nx: 800000\n")
    assert read_calibration_cache(tmp_path / "c").amax["x"] == pytest.approx(127 * 2.0**-126)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "does not begin"),
        ("TRT-8.6-X\n", "does not begin"),
        ("TRT-8601-X\nimages 3c010204\n", "line 2"),
        ("TRT-8601-X\nimages: 3c0102zz\n", "line 2"),
        ("TRT-8601-X\nimages: 3c0102040\n", "line 2"),
        ("TRT-8601-X\nimages: 7fc00000\n", "scale of nan"),
        ("TRT-8601-X\nimages: bc010204\n", "scale of -"),
    ],
)
def test_a_line_that_is_none_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "c").write_text(text)
    with pytest.raises(ArtifactError, match=told):
        read_calibration_cache(tmp_path / "c")


@pytest.mark.parametrize("amax", [0.0, -1.0, float("nan"), float("inf")])
def test_a_range_that_is_none_is_not_written(amax: float) -> None:
    with pytest.raises(ArtifactError, match="images"):
        calibration_cache_text(_cache({"images": amax}))


def test_ranges_are_those_of_the_tensors_that_operations_read(exported: Any) -> None:
    ranges = activation_ranges(exported.graph, exported.scales, None)
    scales = exported.scales.scales
    assert ranges["images"] == scales["backbone.stem.conv.input"].amax[0]
    read = {n.input[0] for n in exported.graph.graph.node if n.op_type in ("Conv", "MaxPool")}
    assert read <= set(ranges)


def test_the_largest_range_of_a_shared_tensor_holds(exported: Any) -> None:
    name = "detect.reg_convs.0.block.conv.input"
    wider = dataclasses.replace(exported.scales.scales[name], amax=(1000.0,))
    scales = dataclasses.replace(exported.scales, scales={**exported.scales.scales, name: wider})
    assert 1000.0 in activation_ranges(exported.graph, scales, None).values()


def test_float_operations_have_no_range(exported: Any) -> None:
    plan = all_int8(list(exported.scales.operations()), keep_float=["backbone.stem"])
    assert "images" not in activation_ranges(exported.graph, exported.scales, plan)
