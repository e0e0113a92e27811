"""Checkpoints, ONNX files and engines that are not what they say (rows 28, 31, 32)."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from faults.cases import Case, Place, Prepared
from faults.pickle_cases import TINY
from safetensors.torch import save

from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_file import load_checkpoint, save_checkpoint
from quantpipe.detector.families.yolov6.checkpoint import Description
from quantpipe.detector.families.yolov6.family import input_of
from quantpipe.detector.families.yolov6.network import build_detector
from quantpipe.engines.contract import BuildSettings, Platform
from quantpipe.engines.engine_file import (
    EngineFile,
    EngineHeader,
    read_engine_file,
    require_platform,
    write_engine_file,
)
from quantpipe.engines.openvino.spec import SPEC, OpenVinoSettings
from quantpipe.errors import ArtifactError, MachineError
from quantpipe.files import canonical_json, sha256_bytes
from quantpipe.graph.onnx_source import read_onnx_source
from quantpipe.quantization.model import require_classes
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.sensitivity.table import SensitivityRow, sorted_table

_BLOB = b"x"
_IMAGE_SIZE = 32
_PLATFORM = Platform(library="openvino 2025.2", hardware="x86_64")


def model_cases() -> Iterator[Case]:
    """All of them."""
    yield from _checkpoints()
    yield from _of_another_model()
    yield from _engines()
    yield from _external_data()
    yield from _onnx_files()


def _checkpoint() -> Checkpoint:
    return Checkpoint(
        family="yolov6",
        settings=Description(TINY, "repopt").settings(),
        class_names=("a", "b", "c"),
        input=input_of((64, 64)),
        tensors=dict(build_detector(TINY, "repopt", seed=0).state_dict()),
        provenance={"step": "train"},
    )


def _refused(
    row: int, name: str, file: str, write: Callable[[Path], object], load: Callable[[Path], object]
) -> Case:
    def prepare(at: Place) -> Prepared:
        write(at.root / file)
        return lambda: load(at.root / file)

    return Case(row=row, name=name, prepare=prepare, error=ArtifactError, says=(file,))


def _checkpoints() -> Iterator[Case]:
    """Files whose every digest is right and whose content is wrong."""
    for field, values in _HEADER_FIELDS.items():
        for value in values:

            def forge(path: Path, field: str = field, value: object = value) -> None:
                _forge_header(path, {field: value})

            name = f"checkpoint: {field} = {json.dumps(value)[:40]}"
            yield _refused(31, name, "c.safetensors", forge, load_checkpoint)
    for name, change in _TENSORS.items():

        def write(path: Path, change: Callable[[dict[str, Any]], object] = change) -> None:
            tensors = dict(_checkpoint().tensors)
            change(tensors)
            _forge_header(path, {}, tensors)

        yield _refused(31, f"checkpoint: {name}", "c.safetensors", write, load_checkpoint)
    for name, content in {
        "empty": b"",
        "a header longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
        "a header of the largest length": b"\xff" * 8 + b"{}",
        "a header that is no JSON": struct.pack("<Q", 4) + b"nope",
        "a deep header": struct.pack("<Q", 100_000) + b"[" * 100_000,
        "safetensors of something else": save({"x": torch.ones(2)}),
        "a pickle": b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00x\x85R.",
    }.items():

        def put(path: Path, content: bytes = content) -> None:
            path.write_bytes(content)

        yield _refused(31, f"checkpoint: {name}", "c.safetensors", put, load_checkpoint)


_SETTINGS = Description(TINY, "repopt").settings()
_SHAPES: tuple[object, ...] = (
    *(None, [], {}, {"name": "x"}),
    {**vars(TINY), "num_classes": 10**9},
)
_FORMS: tuple[object, ...] = (None, 3, "other", ["repopt"], {})
_HEADER_FIELDS: dict[str, tuple[object, ...]] = {
    "family": (None, 3, "other", ["yolov6"], {}),
    "settings": (
        *(None, [], "x", {}),
        *({**_SETTINGS, "architecture": shape} for shape in _SHAPES),
        *({**_SETTINGS, "form": form} for form in _FORMS),
    ),
    "class_names": (None, 3, ["a"], ["a", "b", "c", "d"], {"a": 1}),
    "input": (
        *(None, [], "x", {}),
        *(
            {**asdict(input_of((64, 64))), "height": other}
            for other in (None, -32, 0, 33, "64", [64], True, 1 << 20, 1e30)
        ),
    ),
    "weights_digest": (None, "0" * 64, 3),
    "format_version": (None, 1, 3, "2"),
}
_TENSORS: dict[str, Callable[[dict[str, Any]], object]] = {
    "NaN": lambda tensors: (
        tensors["backbone.stem.conv.weight"].fill_(float("nan"))
        if "backbone.stem.conv.weight" in tensors
        else next(iter(tensors.values())).fill_(float("nan"))
    ),
    "infinite": lambda tensors: next(iter(tensors.values())).fill_(float("inf")),
    "one too few": lambda tensors: tensors.pop(next(iter(tensors))),
    "one too many": lambda tensors: tensors.update(more=torch.ones(1)),
    "another shape": lambda tensors: tensors.update({next(iter(tensors)): torch.ones(1)}),
    "another type": lambda tensors: tensors.update(
        {next(iter(tensors)): next(iter(tensors.values())).double()}
    ),
}


def _forge_header(
    path: Path, changes: dict[str, object], tensors: dict[str, Any] | None = None
) -> None:
    """A checkpoint with other header fields or tensors, and the digests that belong to them."""
    checkpoint = _checkpoint()
    tensors = checkpoint.tensors if tensors is None else tensors
    save_checkpoint(path, checkpoint)
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["quantpipe.checkpoint"])
    header.pop("header_digest")
    header["weights_digest"] = replace(checkpoint, tensors=tensors).weights_digest
    header |= changes
    signed = {**header, "header_digest": sha256_bytes(canonical_json(header).encode())}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    path.write_bytes(save(tensors, {"quantpipe.checkpoint": canonical_json(signed)}))


def _of_another_model() -> Iterator[Case]:
    """Whole and sound, but of other weights, operations or classes; both are named."""
    cache = ScaleCache(
        scales={}, bias_corrections={}, weights_digest="1" * 64, data_digest="d", preprocessing={}
    )
    rows = [SensitivityRow(name="stem", score=0.5)]
    table = sorted_table("loss", rows, baseline=None, weights_digest="1" * 64)
    checkpoint = replace(_checkpoint(), tensors={})
    calls: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
        "scales of other weights": (
            lambda path: cache.require_weights("2" * 64, path=path),
            ("1" * 64, "2" * 64),
        ),
        "table of other weights": (
            lambda path: table.require_weights("2" * 64, path=path),
            ("1" * 64, "2" * 64),
        ),
        "table of other operations": (
            lambda path: table.require_operations(["stem", "head"], path=path),
            ("1 operations", "has 2", "'head'"),
        ),
        "teacher of other classes": (
            lambda path: require_classes(checkpoint, ("a", "b"), path),
            ("a, b, c", "a, b"),
        ),
        "teacher of classes in another order": (
            lambda path: require_classes(checkpoint, ("b", "a", "c"), path),
            ("a, b, c", "b, a, c"),
        ),
    }
    for name, (call, says) in calls.items():

        def prepare(at: Place, call: Callable[[Path], object] = call) -> Prepared:
            return lambda: call(at.root / "given")

        yield Case(row=31, name=name, prepare=prepare, error=ArtifactError, says=("given", *says))


def _header() -> EngineHeader[OpenVinoSettings]:
    engine = OpenVinoSettings(
        name="openvino",
        batch_sizes=(1,),
        float_precision="fp32",
        mode="latency",
        num_streams=0,
        num_threads=1,
    )
    return EngineHeader(
        platform=_PLATFORM,
        settings=BuildSettings(engine=engine, precision="int8", image_size=(64, 64)),
        onnx_sha256="0" * 64,
        num_classes=None,
    )


def _engines() -> Iterator[Case]:
    for what, other in (("library", "openvino 2024.0"), ("hardware", "aarch64")):

        def prepare(at: Place, what: str = what, other: str = other) -> Prepared:
            path = at.root / "model.engine"
            header = replace(_header(), platform=replace(_PLATFORM, **{what: other}))
            write_engine_file(path, EngineFile(header=header, blobs={"batch1": b"x"}))
            return lambda: require_platform(path, read_engine_file(path, SPEC).header, _PLATFORM)

        yield Case(
            row=32,
            name=f"engine of another {what}",
            prepare=prepare,
            error=MachineError,
            says=("model.engine", other, getattr(_PLATFORM, what)),
        )

    def load(path: Path) -> object:
        return read_engine_file(path, SPEC)

    for name, changes in _engine_headers().items():

        def forge(path: Path, changes: dict[str, object] = changes) -> None:
            path.write_bytes(_engine(changes))

        yield _refused(32, f"engine: {name}", "model.engine", forge, load)
    whole = _engine({})
    for name, content in {
        "empty": b"",
        "not an engine": b"\x89PNG" + b"x" * 99,
        "only its mark": b"QPENGINE",
        "a header length past the end": whole[:8] + b"\x7f" + whole[9:],
        "cut in the header": whole[:60],
        "cut in the blob": whole[:-1],
        "longer": whole + b"x",
        "a changed header": whole.replace(b'"image_size":[64,', b'"image_size":[96,'),
        "a changed blob": whole[:-1] + b"y",
    }.items():

        def put(path: Path, content: bytes = content) -> None:
            path.write_bytes(content)

        yield _refused(32, f"engine: {name}", "model.engine", put, load)


_MISSING = object()


def _engine_headers() -> dict[str, dict[str, object]]:
    """By dotted names, fields that no engine file has, each under a digest that is right."""
    header = asdict(_header())
    groups = {"": {**header, "blobs": 0, "format": 0}, "platform.": header["platform"]}
    groups |= {"settings.": header["settings"], "settings.engine.": header["settings"]["engine"]}
    without = {
        f"without {group}{name}": {f"{group}{name}": _MISSING}
        for group, fields in groups.items()
        for name in fields
    }
    return _ENGINE_HEADERS | without


_ENGINE_HEADERS: dict[str, dict[str, object]] = {
    "another engine's": {"settings.engine.name": "onnxruntime"},
    "another format": {"format": 999},
    "no list of blobs": {"blobs": 3},
    "a blob without name": {"blobs": [{"bytes": 1, "sha256": sha256_bytes(b"x")}]},
    "a blob of negative size": {"blobs": [{"name": "a", "bytes": -1, "sha256": "x"}]},
    "a blob of huge size": {"blobs": [{"name": "a", "bytes": 1 << 62, "sha256": "x"}]},
    "a blob of no size": {"blobs": [{"name": "a", "bytes": "1", "sha256": "x"}]},
    "batch sizes as a number": {"settings.engine.batch_sizes": 3},
    "image size as text": {"settings.image_size": "64"},
    "image size as a number": {"settings.image_size": 64},
    "deep": {"platform.library": "deep"},
}


def _engine(changes: dict[str, object]) -> bytes:
    """An engine file with other header fields, and the digest that belongs to them."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        path = Path(folder) / "model.engine"
        write_engine_file(path, EngineFile(header=_header(), blobs={"batch1": _BLOB}))
        written = path.read_bytes()
    start = 8 + 8 + 32
    fields = json.loads(written[start : start + int.from_bytes(written[8:16], "big")])
    for path_in_header, value in changes.items():
        _set(fields, path_in_header, value)
    header = canonical_json(fields).encode()
    if changes.get("platform.library") == "deep":
        header = b"[" * 200_000
    parts = (b"QPENGINE", len(header).to_bytes(8, "big"), hashlib.sha256(header).digest(), header)
    return b"".join(parts) + _BLOB


def _network() -> onnx.ModelProto:
    """A convolution of images, (batch, 3, 32, 32), and its predictions, (batch, 256, 6)."""
    graph = onnx.parser.parse_graph("""
        network (float[batch, 3, 32, 32] images) => (float[batch, 256, 6] predictions) {
            features = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (images, weight)
            rows = Reshape (features, shape)
            predictions = Transpose <perm = [0, 2, 1]> (rows)
        }
    """)
    weight = np.ones((6, 3, 3, 3), np.float32)
    graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 6, -1]), "shape"))
    opset = [onnx.helper.make_opsetid("", 19)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)


def _set(fields: dict[str, Any], where: str, value: object) -> None:
    *groups, name = where.split(".")
    for group in groups:
        fields = fields[group]
    if value is _MISSING:
        del fields[name]
    else:
        fields[name] = value


def _external_data() -> Iterator[Case]:
    """Tensors in another file: an inference library would open it, wherever it is."""
    locations = {
        "outside": "../outside/secret",
        "absolute": "{outside}/secret",
        "hard-linked": "hardlink",
        "symbolically linked": "symlink",
        "beside it": "weights.bin",
        "a device": "/dev/zero",
        "a pipe": "pipe",
        "not there": "none",
    }
    for name, location in locations.items():
        for length in (None, "4", "9223372036854775807", "-1", "x"):

            def prepare(
                at: Place, location: str = location, length: str | None = length
            ) -> Prepared:
                model = _network()
                tensor = model.graph.initializer[0]
                tensor.ClearField("raw_data")
                tensor.data_location = onnx.TensorProto.EXTERNAL
                where = location.format(outside=at.outside.folder)
                tensor.external_data.add(key="location", value=where)
                if length is not None:
                    tensor.external_data.add(key="length", value=length)
                os.link(at.outside.secret, at.root / "hardlink")
                (at.root / "symlink").symlink_to(at.outside.secret)
                (at.root / "weights.bin").write_bytes(b"x" * 4)
                os.mkfifo(at.root / "pipe")
                path = at.root / "model.onnx"
                path.write_bytes(model.SerializeToString())
                return lambda: _source(path)

            yield Case(
                row=28,
                name=f"ONNX with data {name}, length {length}",
                prepare=prepare,
                error=ArtifactError,
                says=("model.onnx",),
            )


def _source(path: Path) -> object:
    return read_onnx_source(path, image_size=(_IMAGE_SIZE, _IMAGE_SIZE), batch_sizes=(1, 4))


def _onnx_files() -> Iterator[Case]:
    whole = _network().SerializeToString()
    contents = {
        "empty": b"",
        "a picture": b"\x89PNG\r\n\x1a\n" + b"x" * 99,
        "a deep message": b"\x3a\xff\xff\xff\xff\x07" * 50,
        "a graph of a huge length": b"\x3a\xff\xff\xff\xff\x0f",
        "no graph": b"\x08\x0a",
        "text": b"model",
        **{f"cut at {part} eighths": whole[: len(whole) * part // 8] for part in range(1, 8)},
    }
    for name, content in contents.items():

        def put(path: Path, content: bytes = content) -> None:
            path.write_bytes(content)

        yield _refused(28, f"ONNX: {name}", "model.onnx", put, _source)
