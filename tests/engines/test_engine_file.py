from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from quantpipe.engines.contract import Platform
from quantpipe.engines.engine_file import (
    EngineFile,
    EngineHeader,
    network_bytes,
    read_engine_file,
    require_platform,
    write_engine_file,
)
from quantpipe.engines.registry import ENGINES, load_engine, read_header
from quantpipe.errors import ArtifactError, MachineError

HERE = Platform(library="openvino 1.2", hardware="cpu x")
OPENVINO = ENGINES["openvino"]


@pytest.fixture
def engine(tiny: Any) -> Any:
    header = EngineHeader(
        platform=HERE, settings=tiny.settings("openvino"), onnx_sha256="0" * 64, num_classes=None
    )
    return EngineFile(header=header, blobs={"batch1": b"abc" * 20, "batch4": b"defg" * 20})


def test_reading_is_writing_backwards(engine: Any, tmp_path: Path) -> None:
    write_engine_file(tmp_path / "e", engine)
    assert read_engine_file(tmp_path / "e", OPENVINO) == engine
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
            read_engine_file(tmp_path / "changed", OPENVINO)


def test_every_cut_and_any_addition_is_noticed(engine: Any, tmp_path: Path) -> None:
    write_engine_file(tmp_path / "e", engine)
    content = (tmp_path / "e").read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            read_engine_file(tmp_path / "cut", OPENVINO)
    (tmp_path / "long").write_bytes(content + b"\0")
    with pytest.raises(ArtifactError, match="1 bytes follow"):
        read_engine_file(tmp_path / "long", OPENVINO)


def test_another_engine_and_a_missing_file_are_refused(engine: Any, tmp_path: Path) -> None:
    write_engine_file(tmp_path / "e", engine)
    with pytest.raises(ArtifactError, match="'openvino', not of 'tensorrt'"):
        read_engine_file(tmp_path / "e", ENGINES["tensorrt"])
    with pytest.raises(ArtifactError, match="no such file"):
        read_engine_file(tmp_path / "missing", OPENVINO)


@pytest.mark.parametrize("field", ["library", "hardware"])
def test_another_platform_names_both_values(engine: Any, tmp_path: Path, field: str) -> None:
    elsewhere = dataclasses.replace(HERE, **{field: "elsewhere 9"})
    other = dataclasses.replace(engine.header, platform=elsewhere)
    with pytest.raises(MachineError, match=f"'elsewhere 9'.*'{getattr(HERE, field)}'"):
        require_platform(tmp_path / "e", other, HERE)
    require_platform(tmp_path / "e", engine.header, HERE)


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
    readers += [partial(read_engine_file, spec=ENGINES["tensorrt"])]
    for read in readers:
        for wrong in (path, tmp_path, tmp_path / "missing.engine"):
            with pytest.raises(ArtifactError) as caught:
                read(wrong)
            assert str(wrong) in str(caught.value)
            assert caught.value.exit_code == 4


def _with_header(path: Path, raw: bytes) -> Path:
    size = len(raw).to_bytes(8, "big")
    path.write_bytes(b"QPENGINE" + size + hashlib.sha256(raw).digest() + raw)
    return path


@pytest.mark.parametrize("raw", [b"[]", b"{}", b'{"format":3}', b"nonsense", b"\xff\xfe"])
def test_a_header_that_says_too_little_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = _with_header(tmp_path / "model.engine", raw)
    for read in (read_header, network_bytes, partial(read_engine_file, spec=OPENVINO)):
        with pytest.raises(ArtifactError, match="build the engine again"):
            read(path)


def test_an_older_format_is_to_be_built_again(tmp_path: Path) -> None:
    former = b'{"format":2,"engine":"openvino","precision":"f32","image_size":32}'
    path = _with_header(tmp_path / "model.engine", former)
    line = r"model\.engine: has format 2, known is 3; build the engine again from its ONNX file$"
    with pytest.raises(ArtifactError, match=line):
        read_header(path)


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        (("platform", "library"), 7, "platform.library"),
        (("settings", "precision"), "f32", "precision"),
        (("settings", "image_size"), 32, "image_size"),
        (("settings", "image_size"), [32, 0], "image_size"),
        (("settings", "engine"), [], "settings"),
        (("settings", "engine", "name"), None, "settings"),
        (("settings", "engine", "num_threads"), "all", "engine.num_threads"),
        (("settings", "engine", "batch_sizes"), [4, 1], "engine.batch_sizes"),
        (("settings", "engine", "workspace_mib"), 64, "engine.workspace_mib"),
        (("num_classes",), 0, "num_classes"),
        (("onnx_sha256",), None, "onnx_sha256"),
        (("blobs",), [], "blobs"),
        (("blobs",), [{"name": "a", "sha256": "0", "bytes": -1}], "blobs"),
    ],
)
def test_a_header_that_is_no_such_thing_names_the_part(
    engine: Any, tmp_path: Path, where: tuple[str, ...], value: Any, named: str
) -> None:
    write_engine_file(tmp_path / "e", engine)
    content = (tmp_path / "e").read_bytes()
    fields = json.loads(content[48 : 48 + int.from_bytes(content[8:16], "big")])
    part = fields
    for name in where[:-1]:
        part = part[name]
    part[where[-1]] = value
    path = _with_header(tmp_path / "forged", json.dumps(fields).encode())
    with pytest.raises(ArtifactError, match=f"{named} in its header is no such thing"):
        read_header(path)


def test_an_engine_that_is_not_listed_here_is_refused(engine: Any, tmp_path: Path) -> None:
    write_engine_file(tmp_path / "e", engine)
    content = (tmp_path / "e").read_bytes()
    header = content[48 : 48 + int.from_bytes(content[8:16], "big")]
    path = _with_header(tmp_path / "forged", header.replace(b'"openvino"', b'"none"'))
    with pytest.raises(ArtifactError, match="engine of 'none', which is not known here"):
        read_header(path)
