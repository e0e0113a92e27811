"""What stages hand to one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ArtifactKind:
    """A type of the edges in a pipeline: a name, and the files that belong together.

    Attributes:
        name: As errors and manifests call it.
        files: Always there; the first is what the artifact's path leads to.
        optional_files: There where there is something to say.
    """

    name: str
    files: tuple[str, ...]
    optional_files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Files of a kind, the digests of their content, and what they were made from.

    Attributes:
        kind: Which files they are.
        folder: Where they lie.
        digests: SHA-256 of each file that is there, by name.
        sources: The inputs of the step that made it, by input.
    """

    kind: ArtifactKind
    folder: Path
    digests: Mapping[str, str]
    sources: Mapping[str, Artifact] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The first file; the others lie beside it."""
        return self.folder / self.kind.files[0]

    def file(self, name: str) -> Path | None:
        """One of the files, if it is there."""
        return self.folder / name if name in self.digests else None

    def identity(self, *, lineage: bool) -> dict[str, Any]:
        """What names it in a key: its content, and with ``lineage`` that of all it came from."""
        named: dict[str, Any] = {"kind": self.kind.name, "files": dict(self.digests)}
        if lineage:
            sources = sorted(self.sources.items())
            named["sources"] = {name: a.identity(lineage=True) for name, a in sources}
        return named
