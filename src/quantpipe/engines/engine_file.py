"""The one file an engine is kept in: a header that says what it is, and the library's blobs.

Layout: ``QPENGINE``, the header's length (8 bytes, big-endian), the header's SHA-256 (32 bytes),
the header as JSON, then the blobs one after another, whose sizes and digests the header holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Generic

from quantpipe.engines.contract import BuildSettings, ImageSize, Platform, S
from quantpipe.engines.engine_spec import EngineSpec
from quantpipe.errors import ArtifactError, ConfigurationError, MachineError
from quantpipe.files import canonical_json, sha256_bytes, write_atomic
from quantpipe.given_files import read_bytes
from quantpipe.quantization.number_format import Precision
from quantpipe.schema import Between, convert

_MAGIC = b"QPENGINE"
_FORMAT = 3
_FIXED = len(_MAGIC) + 8 + 32
_SETTINGS = {"precision": Precision, "image_size": Annotated[ImageSize, Between(1)]}
_HEADER = {
    "platform": Platform,
    "onnx_sha256": str,
    "num_classes": Annotated[int, Between(1)] | None,
}


@dataclass(frozen=True, kw_only=True)
class EngineHeader(Generic[S]):
    """What an engine file holds.

    Attributes:
        platform: What it was built with and for.
        settings: How it was built.
        onnx_sha256: Digest of the ONNX file it was built from.
        num_classes: Of an engine that hands out detections; None of one that predicts.
    """

    platform: Platform
    settings: BuildSettings[S]
    onnx_sha256: str
    num_classes: int | None


@dataclass(frozen=True, kw_only=True)
class EngineFile(Generic[S]):
    """A whole engine file in memory; ``blobs`` are the library's, by name."""

    header: EngineHeader[S]
    blobs: Mapping[str, bytes]


def write_engine_file(path: Path, engine: EngineFile[Any]) -> None:
    """Writes an engine file atomically."""
    blobs = [
        {"name": name, "bytes": len(content), "sha256": sha256_bytes(content)}
        for name, content in engine.blobs.items()
    ]
    fields = {"format": _FORMAT, **asdict(engine.header), "blobs": blobs}
    header = canonical_json(fields).encode()
    digest = hashlib.sha256(header).digest()
    parts = [_MAGIC, len(header).to_bytes(8, "big"), digest, header, *engine.blobs.values()]
    write_atomic(path, b"".join(parts))


def read_engine_file(path: Path, spec: EngineSpec) -> EngineFile[Any]:
    """Reads and checks a file of one kind of engine.

    Raises:
        ArtifactError: It is not an engine file, is damaged, or is another engine's.
    """
    fields, content, start = _open(path)
    if (name := _engine(path, fields)["name"]) != spec.name:
        raise ArtifactError(f"is an engine of '{name}', not of '{spec.name}'", path=path)
    header = _header(path, fields, spec)
    blobs: dict[str, bytes] = {}
    for entry in fields["blobs"]:
        blob = content[start : start + entry["bytes"]]
        if len(blob) != entry["bytes"] or sha256_bytes(blob) != entry["sha256"]:
            raise _damaged(path, f"its part '{entry['name']}' is damaged or cut short")
        blobs[entry["name"]] = blob
        start += len(blob)
    if start != len(content):
        raise _damaged(path, f"{len(content) - start} bytes follow its end")
    return EngineFile(header=header, blobs=blobs)


def read_header(path: Path, specs: Mapping[str, EngineSpec]) -> EngineHeader[Any]:
    """Returns the header of a file of any of some engines, by name; the rest is not checked.

    Raises:
        ArtifactError: It is not an engine file, its header is damaged, or none of these wrote it.
    """
    fields, _, _ = _open(path)
    name = _engine(path, fields)["name"]
    if name not in specs:
        raise _damaged(path, f"is an engine of '{name}', which is not known here")
    return _header(path, fields, specs[name])


def network_bytes(path: Path) -> int:
    """Returns the size of one network in an engine file, which holds one per batch size.

    Raises:
        ArtifactError: It is not an engine file, or its header is damaged.
    """
    fields, _, _ = _open(path)
    return min(int(entry["bytes"]) for entry in fields["blobs"])


def require_platform(path: Path, header: EngineHeader[Any], platform: Platform) -> None:
    """Refuses an engine that was built by another library version or for other hardware.

    Raises:
        MachineError: Naming both values.
    """
    for what, here in vars(platform).items():
        built = getattr(header.platform, what)
        if built != here:
            raise MachineError(
                f"was built with {what} '{built}', but this machine has '{here}'",
                path=path,
                hint="build the engine again here from its ONNX file",
            )


def _open(path: Path) -> tuple[dict[str, Any], bytes, int]:
    """Returns the header's fields, the whole file, and where its blobs begin."""
    content = read_bytes(path, ArtifactError)
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
    missing = sorted({*_HEADER, "settings", "blobs"} - set(fields))
    if missing:
        raise _damaged(path, f"its header says nothing of {', '.join(missing)}")
    blobs = fields["blobs"]
    if not (isinstance(blobs, list) and blobs and all(map(_is_blob, blobs))):
        raise _damaged(path, "blobs in its header is no such thing")
    return dict(fields)


def _engine(path: Path, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a header that the library's settings are read from; its name is a text."""
    settings = fields["settings"]
    engine = settings.get("engine") if isinstance(settings, dict) else None
    if not isinstance(engine, dict) or not isinstance(engine.get("name"), str):
        raise _damaged(path, "settings in its header is no such thing")
    return engine


def _header(path: Path, fields: Mapping[str, Any], spec: EngineSpec) -> EngineHeader[Any]:
    settings = fields["settings"]
    try:
        engine = convert(spec.settings, _engine(path, fields), "engine")
        build = {name: convert(kind, settings.get(name), name) for name, kind in _SETTINGS.items()}
        header = {name: convert(kind, fields[name], name) for name, kind in _HEADER.items()}
    except ConfigurationError as error:
        raise _damaged(path, f"{error.path} in its header is no such thing") from error
    return EngineHeader(settings=BuildSettings(engine=engine, **build), **header)


def _is_blob(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    texts = all(isinstance(entry.get(name), str) for name in ("name", "sha256"))
    return texts and type(entry.get("bytes")) is int and entry["bytes"] >= 0


def _damaged(path: Path, cause: str) -> ArtifactError:
    return ArtifactError(cause, path=path, hint="build the engine again from its ONNX file")
