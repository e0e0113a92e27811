"""Small results of long work, each a file of its own, so that a run that was killed goes on."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from quantpipe.files import canonical_json, write_atomic

Record = Mapping[str, NDArray[np.generic]]

_IDENTITY = "(identity)"
# All that reading an archive with a changed byte was seen to raise: an unknown version or method of
# compression, an encrypted member, a broken stream or header.
_DAMAGED = (
    *(OSError, BadZipFile, EOFError, ValueError, KeyError),
    *(NotImplementedError, RuntimeError, zlib.error, struct.error),
)


@dataclass(frozen=True, kw_only=True)
class SavedRecords:
    """Arrays by the names of records.

    Attributes:
        folder: Where they lie.
        identity: Names all that they depend on and that may change between two runs. Records of
            another identity, and damaged ones, are as good as none.
    """

    folder: Path
    identity: str

    def read(self, name: str) -> dict[str, NDArray[np.generic]] | None:
        """Returns the arrays of a record, or None where there is no sound one."""
        try:
            with self._path(name).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
        except _DAMAGED:
            return None
        named = arrays.pop(_IDENTITY, None)
        return arrays if named is not None and str(named) == self._named(name, arrays) else None

    def write(self, name: str, arrays: Record) -> None:
        """Writes a record, whole or not at all."""
        buffer = io.BytesIO()
        named = np.array(self._named(name, arrays))
        np.savez(buffer, allow_pickle=False, **{_IDENTITY: named, **arrays})
        write_atomic(self._path(name), buffer.getvalue())

    def _named(self, name: str, arrays: Record) -> str:
        """Identity, name and content: the archive's own checksums miss a changed key."""
        digest = hashlib.sha256()
        for key, array in sorted(arrays.items()):
            title = {"key": key, "dtype": str(array.dtype), "shape": list(array.shape)}
            digest.update(canonical_json(title).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return f"{self.identity} {name} {digest.hexdigest()}"

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"
