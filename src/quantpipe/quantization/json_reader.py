"""Reading the JSON artifacts of this package, refusing what is damaged or foreign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantpipe.errors import ArtifactError


def read_document(path: Path, expected_format: str, version: int) -> dict[str, Any]:
    """Returns the JSON object in a file after checking its ``format`` and ``version``.

    Raises:
        ArtifactError: Unreadable, not JSON, NaN or infinite numbers, another format or version.
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
    return document


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
