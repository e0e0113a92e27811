"""JSON documents: written whole, read into dataclasses, refused where they are anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from quantpipe.errors import ArtifactError, ConfigurationError
from quantpipe.files import canonical_json, sha256_bytes, write_json
from quantpipe.given_files import read_text
from quantpipe.schema import NO_GROUP, NO_SUCH_SETTING, NOT_SET, build

C = TypeVar("C")

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
    text = read_text(path, ArtifactError)
    try:
        document = json.loads(text, parse_constant=_refuse)
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


_WORDS = {NOT_SET: "is missing", NO_SUCH_SETTING: "is not known", NO_GROUP: "is not an object"}


def read_as(cls: type[C], path: Path, expected_format: str, version: int, *, hint: str) -> C:
    """Reads a document whose other entries are the fields of a dataclass.

    Args:
        cls: Its annotations say what is in the file, as :mod:`quantpipe.schema` reads them.
        path: The file.
        expected_format: As :func:`read_document` takes it.
        version: Likewise.
        hint: What to do about a document of the right format and version that holds nonsense.

    Raises:
        ArtifactError: As of :func:`read_document` and :func:`record`, with the path.
    """
    document = read_document(path, expected_format, version)
    fields = {key: value for key, value in document.items() if key not in ("format", "version")}
    try:
        return record(cls, fields)
    except ArtifactError as error:
        raise ArtifactError(error.cause, path=path, hint=hint) from error


def record(cls: type[C], values: Any) -> C:
    """Builds a dataclass from a JSON object of its fields.

    Raises:
        ArtifactError: Names the entry (``scales[3].axis``), what it holds, and what was wanted.
    """
    try:
        return build(cls, values, "")
    except ConfigurationError as error:
        cause = error.cause
        for of_settings, of_entries in _WORDS.items():
            cause = cause.replace(of_settings, of_entries)
        entry = f"'{error.path}'" if error.path else "it"
        joint = " " if cause in _WORDS.values() else ": "
        raise ArtifactError(f"{entry}{joint}{cause}") from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")
