"""Public checkpoints that carry code, lie about their sizes, or are damaged (row 27)."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from faults.cases import Case, Place, Prepared, wrong_line

from quantpipe.detector.families.implementation import Released
from quantpipe.detector.families.yolov6.family import YOLOV6, Yolov6Settings, architecture
from quantpipe.detector.families.yolov6.released import read_released_checkpoint
from quantpipe.detector.families.yolov6.rep_optimizer import released_scales
from quantpipe.detector.released.tensors import read_state
from quantpipe.errors import ArtifactError
from quantpipe.stages.calibrate.released_ranges import read_released_ranges

MODEL = Yolov6Settings(
    family="yolov6",
    name="tiny",
    depth=0.1,
    width=0.125,
    backbone_channels=(64, 128, 256, 512, 1024),
    backbone_repeats=(1, 6, 12, 18, 6),
    neck_channels=(256, 128, 128, 256, 256, 512),
    neck_repeats=(12, 12, 12, 12),
    iou_loss="giou",
    image_size=64,
)
TINY = architecture(MODEL, num_classes=3)


def _released() -> Released:
    released = YOLOV6.implementation().released
    assert released is not None
    return released


READERS: dict[str, Callable[[Path], object]] = {
    "as weights": lambda path: read_released_checkpoint(path, MODEL, ("a", "b", "c")),
    "as scales": released_scales,
    "as ranges": lambda path: read_released_ranges(path, torch.nn.Module(), (), _released()),
}


class Payload:
    """Calls a function when an ordinary unpickler reads it."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]):
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


# What each would do to the file {canary}.
_CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "os.system": (os.system, ("touch {canary}",)),
    "os.popen": (os.popen, ("touch {canary}",)),
    "os.mkdir": (os.mkdir, ("{canary}",)),
    "eval": (eval, ("open({canary!r}, 'w')",)),
    "exec": (exec, ("open({canary!r}, 'w')",)),
    "open": (open, ("{canary}", "w")),
    "Path.touch": (Path.touch, ("{canary}",)),
    "subprocess": (subprocess.check_call, (["touch", "{canary}"],)),
    "torch.load": (torch.load, ("{canary}",)),
    "torch.save": (torch.save, (1, "{canary}")),
    "getattr": (getattr, (os, "system")),
    "import": (__import__, ("os",)),
    "setattr": (setattr, (sys, "tracebacklimit", 0)),
    "pickle.loads": (pickle.loads, (b"cos\nsystem\n(S'touch {canary}'\ntR.",)),
}

# Ways of a pickle to name a function without __reduce__.
_OPCODES = {
    "global": b"cos\nsystem\nX\x01\x00\x00\x00x\x85R",
    "python 2 global": b"c__builtin__\neval\nX\x01\x00\x00\x001\x85R",
    "posix": b"cposix\nsystem\nX\x01\x00\x00\x00x\x85R",
    "inst": b"(X\x01\x00\x00\x00xios\nsystem\n",
    "obj": b"(cos\nsystem\nX\x01\x00\x00\x00xo",
    "stack global": b"\x8c\x02os\x8c\x06system\x93X\x01\x00\x00\x00x\x85R",
    "newobj": b"csubprocess\nPopen\nX\x01\x00\x00\x00x\x85\x81",
    "newobj ex": b"\x8c\nsubprocess\x8c\x05Popen\x93)}\x92",
    "dotted name": b"\x8c\x08builtins\x8c\x0eobject.__new__\x93",
    "extension": b"\x82\x01",
    "persistent id": b"Pthere\n",
    "package that only sounds inert": b"cyolov6_evil\nrun\n)R",
    "module that only sounds inert": b"ctorch.nnx\nrun\n)R",
    "hub": b"ctorch.hub\nload\nX\x01\x00\x00\x00x\x85R",
    "state that calls": b"ctorch.nn\nModule\n)R}X\x01\x00\x00\x00acos\nsystem\nX\x01\x00\x00\x00x"
    b"\x85Rsb",
    "memo that claims memory": b"}r\xf0\xff\xff\xff",
    "frame that claims memory": b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    "text that claims memory": b"X\xff\xff\xff\x7fx",
    "long that claims memory": b"\x8b\xff\xff\xff\x7fx",
    "nothing": b"",
    "no end": b"}" * 10_000,
    "deep": b"(" * 5_000 + b"t" * 5_000,
}


def pickle_cases() -> Iterator[Case]:
    """All of them, for each of the readers."""
    for reader in READERS:
        yield from _reduced(reader)
        yield from _opcodes(reader)
    yield from _archives()
    yield from _damaged()


def _reduced(reader: str) -> Iterator[Case]:
    for name, (function, arguments) in _CALLS.items():
        for place, wrap in _PLACES.items():

            def prepare(
                at: Place, function: Any = function, arguments: Any = arguments, wrap: Any = wrap
            ) -> Prepared:
                filled = tuple(_filled(value, at.outside.canary) for value in arguments)
                path = at.root / "evil.pt"
                torch.save(wrap(Payload(function, filled)), path)
                return lambda: READERS[reader](path)

            yield Case(
                row=27,
                name=f"{name} {place}, read {reader}",
                prepare=prepare,
                error=ArtifactError,
                says=("evil.pt", "which no checkpoint of a detector needs"),
            )


_PLACES: dict[str, Callable[[Payload], object]] = {
    "alone": lambda payload: payload,
    "as the model": lambda payload: {"model": payload},
    "beside the model": lambda payload: {"model": {"w": torch.ones(1)}, "epoch": [payload]},
    "as a key": lambda payload: {("k", payload): 1},
}


def _filled(value: Any, canary: Path) -> Any:
    if isinstance(value, str):
        return value.format(canary=str(canary))
    if isinstance(value, bytes):
        return value.replace(b"{canary}", str(canary).encode())
    if isinstance(value, list):
        return [_filled(item, canary) for item in value]
    return "module" if value in (os, sys) else value


def _opcodes(reader: str) -> Iterator[Case]:
    for name, content in _OPCODES.items():

        def prepare(at: Place, content: bytes = content) -> Prepared:
            path = _archive(at.root / "evil.pt", b"\x80\x02" + content + b".")
            return lambda: READERS[reader](path)

        yield Case(
            row=27,
            name=f"opcodes: {name}, read {reader}",
            prepare=prepare,
            error=ArtifactError,
            says=("evil.pt",),
        )


def _archive(path: Path, content: bytes, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as writer:
        writer.writestr("archive/data.pkl", content)
        for name, value in more.items():
            writer.writestr(f"archive/{name}", value)
    return path


def _archives() -> Iterator[Case]:
    """Zip files that lie: names that climb, sizes that are not there, two of one name."""
    for name, change in {
        "compressed": lambda path: _rezipped(path, compression=zipfile.ZIP_DEFLATED),
        "a member that climbs": lambda path: _added(path, "../../outside/canary"),
        "an absolute member": lambda path: _added(path, "/outside/canary"),
        "two pickles": lambda path: _added(path, "other/data.pkl"),
        "a huge size": lambda path: _overwritten(path, offset=24, value=b"\xff\xff\xff\x7f"),
        "a huge packed size": lambda path: _overwritten(path, offset=20, value=b"\xf0\xff\xff\x7f"),
        "a huge offset": lambda path: _overwritten(path, offset=42, value=b"\xf0\xff\xff\x7f"),
        "encrypted": lambda path: _overwritten(path, offset=8, value=b"\x01\x00"),
        "an unknown method": lambda path: _overwritten(path, offset=10, value=b"\x63\x00"),
        "big-endian": lambda path: _added(path, "archive/byteorder", b"big"),
        "no zip after its mark": lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 99),
        "empty": lambda path: path.write_bytes(b""),
        "a picture": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 99),
        "a plain pickle": lambda path: path.write_bytes(pickle.dumps(Payload(os.system, ("x",)))),
        "a script": lambda path: path.write_bytes(b"#!/bin/sh\ntouch canary\n"),
    }.items():

        def prepare(at: Place, change: Callable[[Path], object] = change) -> Prepared:
            path = at.root / "evil.pt"
            torch.save({"model": {"w": torch.ones(3)}}, path)
            change(path)
            return lambda: READERS["as weights"](path)

        yield Case(
            row=27, name=f"archive: {name}", prepare=prepare, error=ArtifactError, says=("evil.pt",)
        )


def _rezipped(path: Path, compression: int) -> None:
    with zipfile.ZipFile(path) as reader:
        members = {name: reader.read(name) for name in reader.namelist()}
    with zipfile.ZipFile(path, "w", compression) as writer:
        for name, content in members.items():
            writer.writestr(name, content)


def _added(path: Path, name: str, content: bytes = b"x") -> None:
    with zipfile.ZipFile(path, "a") as writer:
        replaced = name.rpartition("/")[2]
        names = [known for known in writer.namelist() if known.endswith(f"/{replaced}")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # two members of a name, and on purpose
            writer.writestr(names[0] if replaced == "byteorder" else name, content)


def _overwritten(path: Path, *, offset: int, value: bytes) -> None:
    """Changes a field of the first record of the central directory."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02") + offset
    content[start : start + len(value)] = value
    path.write_bytes(content)


def _damaged() -> Iterator[Case]:
    """Cut anywhere or with a flipped bit: refused, or other numbers, never another exception."""
    for number in range(60):

        def prepare(at: Place, number: int = number) -> Prepared:
            rng = random.Random(number)
            path = at.root / "evil.pt"
            torch.save({"model": {"a.weight": torch.ones(3, 4), "c.bias": torch.ones(2)}}, path)
            content = bytearray(path.read_bytes())
            where = rng.randrange(len(content))
            content[where] ^= 1 << rng.randrange(8)
            path.write_bytes(content if number % 2 else content[:where])
            return lambda: _state_or_refusal(path)

        yield Case(
            row=27,
            name=f"damage {number}",
            prepare=prepare,
            error=None,
            accepts=lambda problem: problem,
        )


def _state_or_refusal(path: Path) -> str | None:
    try:
        state = read_state(path)
    except ArtifactError as error:
        return wrong_line(str(error), ("evil.pt",))
    whole = all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    return None if whole else f"holds {state}"
