"""Writing and reading the JSON artifacts of this package, refusing what is damaged or foreign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantpipe.errors import ArtifactError
from quantpipe.files import canonical_json, sha256_bytes, write_json

_DIGEST = "document_sha256"


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Writes a JSON object, whole or not at all, and the digest of the rest as its last entry."""
    write_json(path, {**document, _DIGEST: _digest(document)})


def read_document(path: Path, expected_format: str, version: int) -> dict[str, Any]:
    """Returns the JSON object in a file after checking its ``format`` and ``version``.

    An object that names its digest must match it; one written by hand need not name any.

    Raises:
        ArtifactError: Unreadable, not JSON, NaN or infinite numbers, another format or version,
            or not what was written.
    """
    try:
        document = json.loads(path.read_bytes(), parse_constant=_refuse)
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", path=path) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"damaged: {error}", path=path) from error
    if not isinstance(document, dict) or document.get("format") != expected_format:
        raise ArtifactError(f"not a {expected_format} file", path=path)
    if document.get("version") != version:
        raise ArtifactError(
            f"{expected_format} version {document.get('version')!r} is not known",
            path=path,
            hint=f"this release reads version {version}",
        )
    named = _DIGEST in document
    digest = document.pop(_DIGEST, None)
    if named and not _matches(document, digest):
        raise ArtifactError(
            f"was changed after it was written; without its entry {_DIGEST} it is taken as it is",
            path=path,
        )
    return document


def _matches(document: dict[str, Any], digest: Any) -> bool:
    try:
        return bool(digest == _digest(document))
    except ValueError:  # a number that became infinite
        return False


def _digest(document: dict[str, Any]) -> str:
    return sha256_bytes(canonical_json(document).encode())


def expect(document: Any, key: str, kind: type[Any]) -> Any:
    """Returns ``document[key]`` if it is of ``kind`` (a bool is no int; an int is a float).

    Raises:
        ArtifactError: Names the key.
    """
    value = document.get(key) if isinstance(document, dict) else None
    if kind is float and type(value) is int:
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ArtifactError(f"'{key}' is {_shortened(value)}, not {kind.__name__}")
    return value


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")
