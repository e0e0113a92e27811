"""TensorRT itself against the ONNX reference implementation, where there is a GPU for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from quantpipe.engines.contract import BuildInputs
from quantpipe.engines.registry import availability, build_engine, load_engine
from quantpipe.engines.tensorrt.version import installed_tensorrt
from quantpipe.export.half import to_half

_MISSING = availability("tensorrt", building=True)
pytestmark = pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))
CACHE = "TRT-8601-EntropyCalibration2\nimages: 3c010204\nb: 3d810204\n"  # 1 and 8 by 127


def _engine(
    tiny: Any,
    folder: Path,
    model: onnx.ModelProto,
    inputs: BuildInputs | None = None,
    **changes: Any,
) -> Any:
    path = folder / "model.onnx"
    onnx.save(model, path)
    build_engine(path, folder / "model.engine", tiny.settings("tensorrt", **changes), inputs)
    return load_engine("tensorrt", folder / "model.engine")


def test_float_predictions_are_the_references(tiny: Any, tmp_path: Path) -> None:
    model = tiny.model(opset=17)
    engine = _engine(tiny, tmp_path, model)
    for count in (1, 3, 4, 6, 4, 1):  # the last two are graphs
        images = tiny.images(count)
        expected = tiny.reference(model, images)
        np.testing.assert_allclose(engine.run(images), expected, rtol=1e-4, atol=1e-4)
    assert {layer.precision for layer in engine.layers() if layer.quantizable} == {"fp32"}
    times = engine.profile(tiny.images(4), 3)
    assert sum(layer.milliseconds for layer in times) > 0
    engine.run(tiny.images(4))
    engine.close()


@pytest.mark.parametrize("cached", [False, True])
def test_int8_computes_what_the_ranges_say(tiny: Any, tmp_path: Path, cached: bool) -> None:
    version = installed_tensorrt()
    assert version is not None
    if cached and not version.implicit_quantization:
        pytest.skip(f"{version} takes no calibration cache")
    model = tiny.model(opset=17, quantized=not cached)
    ranges = BuildInputs(calibration_cache=CACHE if cached else None)
    engine = _engine(tiny, tmp_path, model, ranges, precision="int8")
    images = tiny.images(4)
    expected = tiny.reference(tiny.model(quantized=True), images)
    float_error = np.abs(expected - tiny.reference(tiny.model(), images)).mean()
    found = np.abs(engine.run(images) - expected).mean()
    # A cache leaves the ranges of weights to TensorRT.
    assert found < (2.0 if cached else 0.1) * float_error
    assert "int8" in {layer.precision for layer in engine.layers() if layer.quantizable}


def test_half_is_in_the_flags_or_in_the_graph(tiny: Any, tmp_path: Path) -> None:
    version = installed_tensorrt()
    assert version is not None
    typed = version.types_in_graph
    model = to_half(tiny.model(opset=19)) if typed else tiny.model(opset=17)
    engine = _engine(tiny, tmp_path, model, precision="half")
    images = tiny.images(2)
    expected = tiny.reference(tiny.model(), images)
    assert np.abs(engine.run(images) - expected).max() / np.abs(expected).max() < 0.01


def test_timings_are_kept_and_taken(tiny: Any, tmp_path: Path) -> None:
    notes: list[str] = []
    inputs = BuildInputs(memo=tmp_path / "memo", note=notes.append)
    for _ in range(2):
        _engine(tiny, tmp_path, tiny.model(opset=17), inputs).close()
    (kept,) = (tmp_path / "memo" / "kernel_timings").iterdir()
    assert kept.stat().st_size > 100
    assert notes == []
