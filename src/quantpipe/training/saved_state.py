"""Saved progress of a training: one safetensors file a state, its digest in its name.

Tensors and the JSON beside them (in the file's own metadata) are thus written in one rename, and
a file that is not what was written does not match its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from quantpipe.files import canonical_json, sha256_bytes, write_atomic

_KEPT = 2
_METADATA_KEY = "quantpipe.training"
_LENGTH_BYTES = 8  # of the header, little-endian, first thing in a safetensors file


@dataclass(kw_only=True)
class Counters:
    """Where a training is, apart from its tensors.

    Attributes:
        step: Optimizer steps done.
        history: One record an epoch that is over.
        sums: Loss parts and seconds of the running epoch, summed.
        best_score: Best validation score; None before the first.
        best_epoch: Its epoch, from 1.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    best_score: float | None = None
    best_epoch: int | None = None


def write_state(folder: Path, counters: Counters, tensors: dict[str, Tensor]) -> Path:
    """Writes a state and removes all but the two newest."""
    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        {_METADATA_KEY: canonical_json(vars(counters))},
    )
    path = folder / f"step-{counters.step:09d}-{sha256_bytes(content)}.safetensors"
    write_atomic(path, content)
    for older in [kept for kept in _states(folder) if kept != path][_KEPT - 1 :]:
        older.unlink()
    return path


def newest_state(
    folder: Path, note: Callable[[str], None]
) -> tuple[Counters, dict[str, Tensor]] | None:
    """Reads the newest state that is what was written; notes and removes the others.

    Also removes what a killed write left: one training at a time owns the folder.
    """
    for leftover in folder.glob(".step-*.tmp"):
        leftover.unlink()
    for path in _states(folder):
        content = path.read_bytes()
        if path.stem.endswith(sha256_bytes(content)):
            return Counters(**_metadata(content)), load(content)
        note(f"{path} is damaged: an older state is used instead")
        path.unlink()
    return None


def newest_path(folder: Path) -> Path | None:
    """Returns the newest state's file, or None."""
    return next(iter(_states(folder)), None)


def _states(folder: Path) -> list[Path]:
    """The states, newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def _metadata(content: bytes) -> dict[str, Any]:
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    counters: dict[str, Any] = json.loads(header["__metadata__"][_METADATA_KEY])
    return counters
