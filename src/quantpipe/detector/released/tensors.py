"""From a released checkpoint to a flat state dict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from quantpipe.detector.released.archive import Archive, is_archive
from quantpipe.detector.released.unpickler import Record, read_objects
from quantpipe.errors import ArtifactError

_MAX_DEPTH = 32


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a released checkpoint: of ``ema`` where there is one, else of ``model``.

    Floating tensors come back in float32. A plain state dict is read too.

    Raises:
        ArtifactError: The file is damaged, hostile, or holds no model; one line.
    """
    if not is_archive(path):
        raise ArtifactError(
            "is no checkpoint that is known here",
            path=path,
            hint="give ours (.safetensors), or a public .pt as torch.save (1.6 or newer) writes it",
        )
    with Archive(path) as archive:
        state = _model_state(read_objects(archive))
    if not state:
        raise ArtifactError("holds no model", path=path, hint="expected its 'ema' or 'model'")
    return {name: t.float() if t.is_floating_point() else t for name, t in state.items()}


def _model_state(found: Any) -> dict[str, Tensor]:
    if isinstance(found, Record):
        return dict(_walk(found, "", 0))
    if not isinstance(found, Mapping):
        return {}
    for key in ("ema", "model"):
        value = found.get(key)
        if isinstance(value, Record):
            return dict(_walk(value, "", 0))
        if isinstance(value, Mapping) and (flat := _flat(value)):
            return flat
    return _flat(found)


def _flat(values: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The mapping itself if it is a state dict, else nothing."""
    whole = all(isinstance(k, str) and isinstance(v, Tensor) for k, v in values.items())
    return dict(values) if whole else {}


def _walk(record: Record, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yields the parameters and buffers of a module and of those below, in their order."""
    if depth > _MAX_DEPTH:
        raise ArtifactError("its modules contain each other")
    for kind in ("_parameters", "_buffers"):
        for name, value in _items(record, kind):
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
    for name, value in _items(record, "_modules"):
        if isinstance(value, Record):
            yield from _walk(value, f"{prefix}{name}.", depth + 1)


def _items(record: Record, kind: str) -> list[tuple[str, Any]]:
    values = record.state.get(kind)
    return [(str(k), v) for k, v in values.items()] if isinstance(values, Mapping) else []
