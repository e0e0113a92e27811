"""What OpenVINO alone does; what it shares with ONNX Runtime is in ``test_processor_engines``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from quantpipe.engines.contract import float_layers
from quantpipe.engines.engine_file import read_engine_file
from quantpipe.engines.openvino.spec import SPEC
from quantpipe.engines.registry import build_engine, load_engine


def _built(tiny: Any, onnx_path: Path, **changes: Any) -> Path:
    path = onnx_path.with_suffix(".engine")
    build_engine(onnx_path, path, tiny.settings("openvino", **changes))
    return path


def test_it_takes_the_streams_it_is_given(tiny: Any, float_onnx: Path) -> None:
    path = _built(tiny, float_onnx, mode="throughput", num_threads=2, num_streams=2)
    content = read_engine_file(path, SPEC)
    told = content.header.settings.engine
    assert (told.mode, told.num_streams) == ("throughput", 2)
    engine: Any = load_engine("openvino", path)
    assert {n.get_property("NUM_STREAMS") for n in engine._networks.values()} == {2}


def test_layers_tell_the_precision(tiny: Any, float_onnx: Path, int8_onnx: Path) -> None:
    def precisions(path: Path, **changes: Any) -> Any:
        layers = load_engine("openvino", _built(tiny, path, **changes)).layers()
        return Counter(layer.precision for layer in layers if layer.quantizable), layers

    found, layers = precisions(int8_onnx, precision="int8")
    assert found == {"int8": 2}
    assert not float_layers(layers)
    found, layers = precisions(float_onnx)
    assert found == {"fp32": 2}
    assert len(float_layers(layers)) == 2
    assert any("stem" in layer.name for layer in layers)


def test_half_is_bf16_where_the_processor_has_it(tiny: Any, float_onnx: Path) -> None:
    engine = load_engine("openvino", _built(tiny, float_onnx, precision="half"))
    images = tiny.images(2)
    expected = tiny.reference(tiny.model(), images)
    error = np.abs(engine.run(images) - expected).max() / np.abs(expected).max()
    kinds = {layer.precision for layer in engine.layers() if layer.quantizable}
    assert kinds in ({"bf16"}, {"fp32"})
    assert error < 0.02
    if kinds == {"bf16"}:
        assert error > 1e-5
