"""What a call does besides returning: files it opens, programs it starts, how long it computes."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Nothing that only reads may do any of these.
_FOREIGN = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.putenv",
    "os.remove",
    "os.rename",
    "os.symlink",
    "shutil.rmtree",
    "socket.connect",
    "subprocess.Popen",
    "urllib.Request",
    "webbrowser.open",
)
_LONG_AGO = (1, 1)


@dataclass
class Seen:
    """What was seen while a call ran."""

    opened: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    seconds: float = 0.0


_current: list[Seen] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _current:
        return
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _current[-1].opened.append(os.fsdecode(arguments[0]))
    elif event in _FOREIGN:
        _current[-1].foreign.append(f"{event}{arguments[:1]}")


_hooked: list[bool] = []


@contextmanager
def watching() -> Iterator[Seen]:
    """Records what the block does; an audit hook sees it all and cannot be taken off again."""
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    seen = Seen()
    _current.append(seen)
    started = time.process_time()
    try:
        yield seen
    finally:
        seen.seconds = time.process_time() - started
        _current.pop()


@contextmanager
def bounded(*, mib: int, seconds: float) -> Iterator[None]:
    """Raises MemoryError beyond ``mib`` more than is mapped, TimeoutError after ``seconds``."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError(f"still at it after {seconds:g} s")

    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, ring)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + mib * 2**20, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, handler)


class Outside:
    """A folder beside the data that nobody may look into, and a file that code would make."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.secret = folder / "secret"
        self.canary = folder / "canary"
        folder.mkdir(parents=True)
        self.secret.write_bytes(b"secret" * 100)
        os.utime(self.secret, _LONG_AGO)  # so that also a reader without Python shows

    def breach(self, seen: Seen) -> str | None:
        """How the block broke out, or None."""
        if self.canary.exists():
            return "code of the file ran"
        if seen.foreign:
            return f"it did {seen.foreign[0]}"
        beyond = [path for path in seen.opened if Path(os.path.realpath(path)) in self._files()]
        if beyond or self.secret.stat().st_atime > _LONG_AGO[0]:
            return "it opened a file outside its root"
        return None

    def _files(self) -> set[Path]:
        return {Path(os.path.realpath(path)) for path in self.folder.iterdir()}
