"""What ONNX Runtime alone does; what it shares with OpenVINO is in ``test_processor_engines``."""

from __future__ import annotations

import errno
import re
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from quantpipe.engines.contract import float_layers
from quantpipe.engines.registry import build_engine, load_engine
from quantpipe.errors import ArtifactError, MachineError
from quantpipe.files import NoRoomError


def _built(tiny: Any, onnx_path: Path, **changes: Any) -> Path:
    path = onnx_path.with_suffix(".engine")
    build_engine(onnx_path, path, tiny.settings("onnxruntime", **changes))
    return path


def test_it_keeps_a_float_convolution_apart(tiny: Any, int8_onnx: Path) -> None:
    engine = load_engine("onnxruntime", _built(tiny, int8_onnx, precision="int8"))
    # Nothing is quantized behind the head, and ONNX Runtime needs that for an integer kernel.
    assert "head" in {layer.name for layer in float_layers(engine.layers())}


def test_an_opset_newer_than_it_takes_names_both(
    tiny: Any, float_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 1000)
    model = tiny.model()
    model.opset_import[0].version = 999
    float_onnx.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError) as caught:
        _built(tiny, float_onnx)
    told = (
        r".*float\.onnx: uses opset 999, onnxruntime (\S+) takes opsets up to (\d+); set export\."
    )
    match = re.match(told + r"opset=\2 or less, or install a newer onnxruntime$", str(caught.value))
    assert match is not None
    assert match[1] == onnxruntime.__version__
    assert int(match[2]) >= 20


@contextmanager
def files_no_longer_than(num_bytes: int) -> Iterator[None]:
    """What a full disk is to whoever writes: the write fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_not_blamed_on_the_graph(tiny: Any, float_onnx: Path) -> None:
    size = float_onnx.stat().st_size
    with files_no_longer_than(size // 2), pytest.raises(NoRoomError) as caught:
        _built(tiny, float_onnx)
    assert caught.value.errno == errno.EFBIG
    assert Path(caught.value.filename).is_relative_to(float_onnx.parent)
    assert caught.value.needed == 2 * size
    assert [path.name for path in float_onnx.parent.iterdir()] == [float_onnx.name]


def test_a_graph_that_is_wrong_is_blamed_on_the_graph(tiny: Any, float_onnx: Path) -> None:
    model = tiny.model()
    model.graph.node[0].op_type = "NoSuchOperator"
    float_onnx.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"float\.onnx: ONNX Runtime: .*NoSuchOperator"):
        _built(tiny, float_onnx)


def test_building_needs_no_temporary_folder(
    tiny: Any, float_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    engine = load_engine("onnxruntime", _built(tiny, float_onnx))
    assert engine.run(tiny.images(1)).shape[0] == 1
    engine.close()


def test_times_that_were_cut_short_name_the_temporary_folder(
    tiny: Any, float_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine("onnxruntime", _built(tiny, float_onnx))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with files_no_longer_than(100), pytest.raises(MachineError, match="TMPDIR") as caught:
        engine.profile(tiny.images(1), 1)
    assert str(tmp_path / "temporary") in str(caught.value)
    engine.close()
