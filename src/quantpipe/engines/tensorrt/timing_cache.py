"""What a GPU builder measured of its kernels, so that the next build need not measure again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quantpipe.engines.contract import Platform
from quantpipe.files import canonical_json, sha256_bytes, write_atomic

_MAGIC = b"QPTIMING"
_DIGEST_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class TimingCache:
    """A folder of such measurements, one file per library version and hardware.

    They save time and nothing else: no key knows of them, and one that is missing, damaged or
    refused by the library only means that the kernels are measured again. Of two builds at once
    the one that ends last keeps its measurements.

    Attributes:
        folder: Made when the first are kept.
        warn: Told of a file that is ignored, and why.
    """

    folder: Path
    warn: Callable[[str], None]

    def load(self, platform: Platform) -> bytes:
        """Returns what was kept on a platform, or nothing."""
        path = self._path(platform)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            self.warn(f"{path}: ignored, cannot be read ({error.strerror})")
            return b""
        start = len(_MAGIC) + _DIGEST_BYTES
        digest, kept = content[len(_MAGIC) : start], content[start:]
        if content[: len(_MAGIC)] != _MAGIC or hashlib.sha256(kept).digest() != digest:
            self.warn(f"{path}: damaged, ignored; kernels are timed anew")
            return b""
        return kept

    def save(self, platform: Platform, kept: bytes) -> None:
        """Keeps what a build measured, atomically; a full disk does not fail the build."""
        path = self._path(platform)
        try:
            write_atomic(path, b"".join([_MAGIC, hashlib.sha256(kept).digest(), kept]))
        except OSError as error:
            self.warn(f"{path}: kernel timings are not kept ({error.strerror})")

    def _path(self, platform: Platform) -> Path:
        return self.folder / f"{sha256_bytes(canonical_json(vars(platform)).encode())[:32]}.timing"
