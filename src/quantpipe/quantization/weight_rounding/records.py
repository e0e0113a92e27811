"""Chosen integers kept between runs: one small file for each operation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from quantpipe.files import sha256_bytes, write_atomic

_CODES, _DIGEST = "codes", "digest"


@dataclass(frozen=True, kw_only=True)
class CodeRecords:
    """Integers by operation.

    Attributes:
        folder: Where the files are.
        identity: Of what the integers were chosen for; records of another one are none.
    """

    folder: Path
    identity: str

    def read(self, name: str, like: Tensor) -> Tensor | None:
        """Returns the integers, int8 on the device of ``like``; None where no whole record fits."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            stored = safetensors.torch.load(path.read_bytes())
        except SafetensorError:
            return None
        codes, digest = stored.get(_CODES), stored.get(_DIGEST)
        if codes is None or digest is None or codes.dtype != torch.int8:
            return None
        whole = bytes(digest.tolist()).decode(errors="replace") == self._digest(name, codes)
        return codes.to(like.device) if whole and codes.shape == like.shape else None

    def write(self, name: str, codes: Tensor) -> None:
        """Keeps the integers, whole or not at all."""
        kept = codes.cpu().contiguous()
        digest = torch.tensor(list(self._digest(name, kept).encode()), dtype=torch.uint8)
        write_atomic(self._path(name), safetensors.torch.save({_CODES: kept, _DIGEST: digest}))

    def _digest(self, name: str, codes: Tensor) -> str:
        return sha256_bytes(f"{self.identity} {name} ".encode() + codes.numpy().tobytes())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.codes"
