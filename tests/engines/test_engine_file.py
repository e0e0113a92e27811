from __future__ import annotations

import dataclasses
import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from quantpipe.engines.engine import load_engine
from quantpipe.engines.engine_file import (
    EngineFile,
    header_for,
    network_bytes,
    read_engine_file,
    read_header,
    require_place,
    write_engine_file,
)
from quantpipe.errors import ArtifactError, MachineError

PLACE = {"library": "openvino 1.2", "hardware": "cpu x"}


@pytest.fixture
def engine(tiny: Any) -> Any:
    header = header_for("openvino", PLACE, tiny.settings(), "0" * 64)
    return EngineFile(header=header, blobs={"batch1": b"abc" * 20, "batch4": b"defg" * 20})


def test_reading_is_writing_backwards(engine: Any, tmp_path: Path) -> None:
    write_engine_file(tmp_path / "e", engine)
    assert read_engine_file(tmp_path / "e", "openvino") == engine
    assert read_header(tmp_path / "e") == engine.header
    assert network_bytes(tmp_path / "e") == 60


def test_every_changed_byte_is_noticed(engine: Any, tmp_path: Path) -> None:
    write_engine_file(tmp_path / "e", engine)
    content = (tmp_path / "e").read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << (position % 8)
        (tmp_path / "changed").write_bytes(changed)
        with pytest.raises(ArtifactError):
            read_engine_file(tmp_path / "changed", "openvino")


def test_every_cut_and_any_addition_is_noticed(engine: Any, tmp_path: Path) -> None:
    write_engine_file(tmp_path / "e", engine)
    content = (tmp_path / "e").read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            read_engine_file(tmp_path / "cut", "openvino")
    (tmp_path / "long").write_bytes(content + b"\0")
    with pytest.raises(ArtifactError, match="1 bytes follow"):
        read_engine_file(tmp_path / "long", "openvino")


def test_another_engine_and_a_missing_file_are_refused(engine: Any, tmp_path: Path) -> None:
    write_engine_file(tmp_path / "e", engine)
    with pytest.raises(ArtifactError, match="'openvino', not of 'tensorrt'"):
        read_engine_file(tmp_path / "e", "tensorrt")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_engine_file(tmp_path / "missing", "openvino")


@pytest.mark.parametrize("field", ["library", "hardware"])
def test_another_place_names_both_values(engine: Any, tmp_path: Path, field: str) -> None:
    other = dataclasses.replace(engine.header, **{field: "elsewhere 9"})
    with pytest.raises(MachineError, match=f"'elsewhere 9'.*'{PLACE[field]}'"):
        require_place(tmp_path / "e", other, PLACE)
    require_place(tmp_path / "e", engine.header, PLACE)


def test_the_number_of_classes_stays(engine: Any, tmp_path: Path) -> None:
    detecting = dataclasses.replace(
        engine, header=dataclasses.replace(engine.header, num_classes=80)
    )
    write_engine_file(tmp_path / "e", detecting)
    assert read_header(tmp_path / "e").num_classes == 80


@pytest.mark.parametrize(
    "content", [b"", b"not an engine", b"QPENGINE", b"QPENGINE" + b"\xff" * 99]
)
def test_something_else_is_refused_by_every_reader(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(content)
    readers: list[Any] = [read_header, network_bytes]
    readers += [partial(load_engine, name) for name in ("openvino", "onnxruntime")]
    readers += [partial(read_engine_file, engine="tensorrt")]
    for read in readers:
        for wrong in (path, tmp_path, tmp_path / "missing.engine"):
            with pytest.raises(ArtifactError) as caught:
                read(wrong)
            assert str(wrong) in str(caught.value)
            assert caught.value.exit_code == 4


@pytest.mark.parametrize("raw", [b"[]", b"{}", b'{"format":2}', b"nonsense", b"\xff\xfe"])
def test_a_header_that_says_too_little_is_refused(tmp_path: Path, raw: bytes) -> None:
    size = len(raw).to_bytes(8, "big")
    path = tmp_path / "model.engine"
    path.write_bytes(b"QPENGINE" + size + hashlib.sha256(raw).digest() + raw)
    for read in (read_header, network_bytes, partial(read_engine_file, engine="openvino")):
        with pytest.raises(ArtifactError, match="build the engine again"):
            read(path)
