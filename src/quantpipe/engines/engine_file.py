"""The one file an engine is kept in: a header that says what it is, and the library's blobs.

Layout: ``QPENGINE``, the header's length (8 bytes, big-endian), the header's SHA-256 (32 bytes),
the header as JSON, then the blobs one after another, whose sizes and digests the header holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.engines.engine import BuildSettings
from quantpipe.errors import ArtifactError, MachineError
from quantpipe.files import canonical_json, sha256_bytes, write_atomic

_MAGIC = b"QPENGINE"
_FORMAT = 2
_FIXED = len(_MAGIC) + 8 + 32


@dataclass(frozen=True, kw_only=True)
class EngineHeader:
    """What an engine file holds.

    Attributes:
        engine: A name of :data:`quantpipe.engines.engine.ENGINES`.
        library: Library and version that built it.
        hardware: What it was built for.
        precision: The precision asked for.
        float_precision: What the float operations of an ``int8`` engine run in.
        image_size: Side of the square input in pixels.
        batch_sizes: Batch sizes it was built for, ascending.
        mode: ``latency`` or ``throughput``.
        num_streams: Batches at once in ``throughput``; 0 is the library's choice.
        num_threads: Threads an engine uses; 0 is the library's choice.
        workspace_mib: Scratch memory its builder might use, in MiB.
        optimization_level: How long its builder searched, 0 to 5.
        onnx_sha256: Digest of the ONNX file it was built from.
        num_classes: Of an engine that hands out detections; None of one that predicts.
    """

    engine: str
    library: str
    hardware: str
    precision: str
    float_precision: str
    image_size: int
    batch_sizes: tuple[int, ...]
    mode: str
    num_streams: int
    num_threads: int
    workspace_mib: int
    optimization_level: int
    onnx_sha256: str
    num_classes: int | None


@dataclass(frozen=True, kw_only=True)
class EngineFile:
    """A whole engine file in memory; ``blobs`` are the library's, by name."""

    header: EngineHeader
    blobs: Mapping[str, bytes]


def header_for(
    engine: str,
    place: Mapping[str, str],
    settings: BuildSettings,
    onnx_sha256: str,
    num_classes: int | None = None,
) -> EngineHeader:
    """Returns the header of an engine built here; ``place`` is what ``identity`` returns."""
    return EngineHeader(
        engine=engine,
        library=place["library"],
        hardware=place["hardware"],
        precision=settings.precision,
        float_precision=settings.float_precision,
        image_size=settings.image_size,
        batch_sizes=settings.batch_sizes,
        mode=settings.mode,
        num_streams=settings.num_streams,
        num_threads=settings.num_threads,
        workspace_mib=settings.workspace_mib,
        optimization_level=settings.optimization_level,
        onnx_sha256=onnx_sha256,
        num_classes=num_classes,
    )


def write_engine_file(path: Path, engine: EngineFile) -> None:
    """Writes an engine file atomically."""
    blobs = [
        {"name": name, "bytes": len(content), "sha256": sha256_bytes(content)}
        for name, content in engine.blobs.items()
    ]
    fields = {**vars(engine.header), "batch_sizes": list(engine.header.batch_sizes)}
    header = canonical_json({"format": _FORMAT, **fields, "blobs": blobs}).encode()
    digest = hashlib.sha256(header).digest()
    parts = [_MAGIC, len(header).to_bytes(8, "big"), digest, header, *engine.blobs.values()]
    write_atomic(path, b"".join(parts))


def read_engine_file(path: Path, engine: str) -> EngineFile:
    """Reads and checks an engine file of the named engine.

    Raises:
        ArtifactError: It is not an engine file, is damaged, or is another engine's.
    """
    fields, content, start = _open(path)
    if fields["engine"] != engine:
        raise ArtifactError(f"is an engine of '{fields['engine']}', not of '{engine}'", path=path)
    blobs: dict[str, bytes] = {}
    for entry in fields["blobs"]:
        blob = content[start : start + entry["bytes"]]
        if len(blob) != entry["bytes"] or sha256_bytes(blob) != entry["sha256"]:
            raise _damaged(path, f"its part '{entry['name']}' is damaged or cut short")
        blobs[entry["name"]] = blob
        start += len(blob)
    if start != len(content):
        raise _damaged(path, f"{len(content) - start} bytes follow its end")
    return EngineFile(header=_engine_header(fields), blobs=blobs)


def read_header(path: Path) -> EngineHeader:
    """Returns the header of an engine file of any engine; the rest is not checked.

    Raises:
        ArtifactError: It is not an engine file, or its header is damaged.
    """
    fields, _, _ = _open(path)
    return _engine_header(fields)


def network_bytes(path: Path) -> int:
    """Returns the size of one network in an engine file, which holds one per batch size.

    Raises:
        ArtifactError: It is not an engine file, or its header is damaged.
    """
    fields, _, _ = _open(path)
    return min(int(entry["bytes"]) for entry in fields["blobs"])


def require_place(path: Path, header: EngineHeader, place: Mapping[str, str]) -> None:
    """Refuses an engine that was built by another library version or for other hardware.

    Raises:
        MachineError: Naming both values.
    """
    for what, built in (("library", header.library), ("hardware", header.hardware)):
        if built != place[what]:
            raise MachineError(
                f"was built with {what} '{built}', but this machine has '{place[what]}'",
                path=path,
                hint="build the engine again here from its ONNX file",
            )


def _open(path: Path) -> tuple[dict[str, Any], bytes, int]:
    """Returns the header's fields, the whole file, and where its blobs begin."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot be read ({error.strerror})", path=path) from error
    if content[: len(_MAGIC)] != _MAGIC or len(content) < _FIXED:
        raise _damaged(path, "is not an engine file")
    size = int.from_bytes(content[len(_MAGIC) : len(_MAGIC) + 8], "big")
    raw = content[_FIXED : _FIXED + size]
    if len(raw) != size or hashlib.sha256(raw).digest() != content[_FIXED - 32 : _FIXED]:
        raise _damaged(path, "its header is damaged or cut short")
    return _fields(path, raw), content, _FIXED + size


def _fields(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is not JSON") from error
    form = fields.get("format") if isinstance(fields, dict) else None
    if form != _FORMAT:
        raise _damaged(path, f"has format {form}, known is {_FORMAT}")
    known = {field.name for field in dataclasses.fields(EngineHeader)} | {"blobs"}
    missing = sorted(known - set(fields))
    if missing:
        raise _damaged(path, f"its header says nothing of {', '.join(missing)}")
    for name in sorted(known):
        if not _is_sound(name, fields[name]):
            raise _damaged(path, f"{name} in its header is no such thing")
    return dict(fields)


def _is_sound(name: str, value: Any) -> bool:
    """Whether a field of the header can be what its name says."""
    if name == "blobs":
        return isinstance(value, list) and bool(value) and all(map(_is_blob, value))
    if name == "batch_sizes":
        sizes = value if isinstance(value, list) else []
        return bool(sizes) and all(map(_is_positive, sizes)) and sizes == sorted(set(sizes))
    if name == "num_classes":
        return value is None or _is_positive(value)
    if name == "image_size":
        return _is_positive(value)
    kind = typing.get_type_hints(EngineHeader)[name]
    return type(value) is kind and (kind is str or value >= 0)


def _is_blob(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    texts = all(isinstance(entry.get(name), str) for name in ("name", "sha256"))
    return texts and type(entry.get("bytes")) is int and entry["bytes"] >= 0


def _is_positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _engine_header(fields: Mapping[str, Any]) -> EngineHeader:
    known = {field.name: fields[field.name] for field in dataclasses.fields(EngineHeader)}
    return EngineHeader(**{**known, "batch_sizes": tuple(known["batch_sizes"])})


def _damaged(path: Path, cause: str) -> ArtifactError:
    return ArtifactError(cause, path=path, hint="build the engine again from its ONNX file")
