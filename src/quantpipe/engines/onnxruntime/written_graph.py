"""Where ONNX Runtime writes a graph that it made, and whether the disk took it.

It reports a disk that is full, or a folder that is gone, as a fault of the graph
("Protobuf serialization failed", "SystemError : 2").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from quantpipe.files import faults_named

# What is optimized for a processor holds weights in another order, padded, beside new names.
_LARGEST_GROWTH = 2


@contextmanager
def folder_beside(engine_path: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, on the disk that the engine goes to."""
    with TemporaryDirectory(dir=engine_path.parent) as folder:
        yield Path(folder)


def require_room(path: Path, graph: bytes) -> None:
    """Tells what the disk says of a file as large as the graph may become.

    Raises:
        NoRoomError: It is full.
        OSError: It cannot be written for another reason.
    """
    size = _LARGEST_GROWTH * len(graph)
    with faults_named(path, size), path.open("wb") as file:
        for _ in range(_LARGEST_GROWTH):
            file.write(graph)
