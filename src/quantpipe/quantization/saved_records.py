"""Small results of long work, each a file of its own, so that a run that was killed goes on."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from quantpipe.files import write_atomic

Record = Mapping[str, NDArray[np.generic]]

_IDENTITY = "(identity)"


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
            # The archive keeps a checksum of every array.
            with self._path(name).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
        except (OSError, BadZipFile, EOFError, ValueError, KeyError):
            return None
        named = arrays.pop(_IDENTITY, None)
        return arrays if named is not None and str(named) == f"{self.identity} {name}" else None

    def write(self, name: str, arrays: Record) -> None:
        """Writes a record, whole or not at all."""
        buffer = io.BytesIO()
        named = np.array(f"{self.identity} {name}")
        np.savez(buffer, allow_pickle=False, **{_IDENTITY: named, **arrays})
        write_atomic(self._path(name), buffer.getvalue())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"
