"""The zip archive that ``torch.save`` writes: one pickle, and the raw bytes of each tensor."""

from __future__ import annotations

import zipfile
from pathlib import Path

from quantpipe.errors import ArtifactError
from quantpipe.given_files import require_file

ZIP_MAGIC = b"PK\x03\x04"
_RESAVE = "give the checkpoint as torch.save writes it"


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip archive does.

    Raises:
        ArtifactError: The file cannot be read.
    """
    require_file(path, ArtifactError)
    try:
        with path.open("rb") as file:
            return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    except OSError as error:
        raise ArtifactError(f"cannot be read ({error.strerror})", path=path) from error


class Archive:
    """The members of an archive, checked before any of them is read.

    Args:
        path: The file; it stays open until the ``with`` block ends.

    Raises:
        ArtifactError: It is no such archive, or a member claims to be larger than the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._prefix = ""
        require_file(path, ArtifactError)
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise ArtifactError(
                f"is no whole torch archive ({error})", path=path, hint=_RESAVE
            ) from error
        try:
            self._check()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def pickle(self) -> bytes:
        """The pickle of everything but the tensors' bytes."""
        return self._read("data.pkl")

    def storage(self, key: str) -> bytes:
        """The bytes of one storage."""
        return self._read(f"data/{key}")

    def _check(self) -> None:
        limit = self.path.stat().st_size
        names = [info.filename for info in self._zip.infolist()]
        # torch stores its members as they are; a compressed one could unpack to any size.
        for info in self._zip.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
                raise self._fault(f"its member '{info.filename}' is compressed or too large")
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1 or len(names) != len(set(names)):
            raise self._fault("holds not exactly one data.pkl")
        self._prefix = pickles[0].removesuffix("data.pkl")
        if f"{self._prefix}byteorder" in names and self._read("byteorder") != b"little":
            raise self._fault("its numbers are big-endian")

    def _read(self, name: str) -> bytes:
        try:
            return self._zip.read(self._prefix + name)
        except KeyError as error:
            raise self._fault(f"lacks its member '{name}'") from error
        except (
            zipfile.BadZipFile,
            OSError,
            ValueError,
            RuntimeError,
            EOFError,
            OverflowError,
        ) as error:
            raise self._fault(f"its member '{name}' is damaged ({error})") from error

    def _fault(self, cause: str) -> ArtifactError:
        return ArtifactError(cause, path=self.path, hint=_RESAVE)
