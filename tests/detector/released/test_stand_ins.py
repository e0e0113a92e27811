"""The functions that ordinary checkpoints name are taken in their one use, and in no other."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
from tests.detector.released.test_unpickler import archive, opcodes, text

from quantpipe.detector.released import stand_ins
from quantpipe.detector.released.archive import Archive
from quantpipe.detector.released.stand_ins import Record
from quantpipe.detector.released.unpickler import read_objects
from quantpipe.errors import ArtifactError

MODULE = b"cyolov6.models.yolo\nModel\n)\x81"
"""An object of a foreign class."""

GETATTR = b"c__builtin__\ngetattr\n"
ENCODE = b"c_codecs\nencode\n"
SCALAR = b"cnumpy.core.multiarray\nscalar\n"
NEW_SCALAR = b"cnumpy._core.multiarray\nscalar\n"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def encoded(content: str) -> bytes:
    return call(ENCODE, text(content), text("latin1"))


def dtype(code: str) -> bytes:
    return call(b"cnumpy\ndtype\n", text(code), b"\x89\x88")


def read(tmp_path: Path, content: bytes) -> object:
    with Archive(archive(tmp_path / "a.pt", opcodes(content))) as opened:
        return read_objects(opened)


def hostile_pickle(canary: Path) -> str:
    """The text of a pickle that makes a file when it is read."""
    return f"cos\nsystem\n(S'touch {canary}'\ntR."


@pytest.mark.parametrize("scalar", [SCALAR, NEW_SCALAR])
@pytest.mark.parametrize("code", ["f8", "<f4", "i8", "u1", "b1", "?", "c16", "U3", "S2"])
def test_a_number_and_a_text_of_numpy_become_records(
    scalar: bytes, code: str, tmp_path: Path
) -> None:
    found = read(tmp_path, call(scalar, dtype(code), encoded("\x00\xff")))
    assert isinstance(found, Record)
    assert (found.origin, found.state) == ("numpy.scalar", {})


def test_bytes_are_those_that_protocol_2_wrote(tmp_path: Path) -> None:
    raw = bytes(range(256))
    assert read(tmp_path, pickle.dumps(raw, 2)[2:-1]) == raw


def test_a_bound_method_becomes_a_record_and_is_never_looked_up(tmp_path: Path) -> None:
    found = read(tmp_path, call(GETATTR, MODULE, text("state")))
    assert isinstance(found, Record)
    assert (found.origin, found.state) == ("builtins.getattr", {})


@pytest.mark.parametrize(
    "content",
    {
        "of a function of the system": call(GETATTR, b"cos\nsystem\n", text("__call__")),
        "of a module": call(GETATTR, b"cos\npath\n", text("join")),
        "of a foreign class": call(GETATTR, b"ctorch.nn\nModule\n", text("load")),
        "of a text": call(GETATTR, text("x"), text("format")),
        "of a dictionary": call(GETATTR, b"}", text("update")),
        "of the function itself": call(GETATTR, GETATTR, text("im_func")),
        "of a bound method": call(GETATTR, call(GETATTR, MODULE, text("a")), text("b")),
        "of a number": call(GETATTR, call(SCALAR, dtype("f8"), encoded("x")), text("item")),
        "of a type of numbers": call(GETATTR, dtype("f8"), text("newbyteorder")),
        "the class of an object": call(GETATTR, MODULE, text("__class__")),
        "the state of an object": call(GETATTR, MODULE, text("__dict__")),
        "by a dotted name": call(GETATTR, MODULE, text("forward.__globals__")),
        "by no text": call(GETATTR, MODULE, b"K\x01"),
        "with something instead": call(GETATTR, MODULE, text("forward"), b"N"),
        "of nothing": call(GETATTR, MODULE),
        "called": call(call(GETATTR, MODULE, text("forward")), text("touch x")),
    }.items(),
    ids=lambda item: item[0],
)
def test_other_attributes_are_refused(content: tuple[str, bytes], tmp_path: Path) -> None:
    refused(content[1], tmp_path)


@pytest.mark.parametrize("codec", ["zip", "bz2", "rot13", "hex", "utf-8", "unicode_escape", ""])
def test_other_codecs_are_refused(codec: str, tmp_path: Path) -> None:
    refused(call(ENCODE, text("x"), text(codec)), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        call(ENCODE, encoded("x"), text("latin1")),
        call(ENCODE, text("x"), text("latin1"), text("ignore")),
        call(ENCODE, text("x")),
        call(ENCODE, text("\u20ac"), text("latin1")),
        call(encoded("x"), text("latin1")),
    ],
    ids=["of bytes", "leaving out", "without a codec", "beyond the codec", "called"],
)
def test_other_encodings_are_refused(content: bytes, tmp_path: Path) -> None:
    refused(content, tmp_path)


@pytest.mark.parametrize("scalar", [SCALAR, NEW_SCALAR])
@pytest.mark.parametrize("code", ["O", "O8", "|O", "V8", "M8", "f8,O", "", "object"])
def test_a_scalar_of_objects_is_refused_and_not_unpickled(
    scalar: bytes, code: str, tmp_path: Path
) -> None:
    payload = hostile_pickle(tmp_path / "canary")
    refused(call(scalar, dtype(code), encoded(payload)), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        call(SCALAR, text("f8"), encoded("x")),
        call(SCALAR, MODULE, encoded("x")),
        call(SCALAR, dtype("f8"), text("x")),
        call(SCALAR, dtype("f8"), MODULE),
        call(SCALAR, dtype("f8")),
        call(SCALAR, call(b"cnumpy\ndtype\n", MODULE), encoded("x")),
        call(call(SCALAR, dtype("f8"), encoded("x")), text("touch x")),
        b"cnumpy\nload\n",
        b"cnumpy\nfromfile\n",
        b"cnumpy.core.multiarray\nfromstring\n",
        b"cnumpy.testing._private.utils\nrunstring\n",
        b"cnumpy.f2py.crackfortran\ngetlincoef\n",
    ],
)
def test_other_uses_of_numpy_are_refused(content: bytes, tmp_path: Path) -> None:
    refused(content, tmp_path)


def test_a_call_hidden_in_a_number_is_refused(tmp_path: Path) -> None:
    """What is in a type, in bytes and in an array's state is read by the same rules."""
    system = call(b"cos\nsystem\n", text(f"touch {tmp_path / 'canary'}"))
    array = call(
        b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"K\x00\x85", b"N"
    )
    for content in (
        call(SCALAR, system, encoded("x")),
        call(SCALAR, dtype("f8"), system),
        dtype("f8") + b"(" + system + b"tb",
        array + b"(K\x01K\x01\x85" + dtype("O") + b"\x89](" + system + b"etb",
        call(GETATTR, MODULE + b"}" + text("x") + system + b"sb", text("forward")),
    ):
        refused(content, tmp_path)


@pytest.mark.parametrize("function", [GETATTR, ENCODE, SCALAR, b"cnumpy\ndtype\n"])
def test_a_file_cannot_change_what_it_is_handed(function: bytes, tmp_path: Path) -> None:
    """BUILD with a pair sets attributes: of a function that would be its code and its defaults."""
    before = {name: vars(stand_ins.StandIns)[name] for name in vars(stand_ins.StandIns)}
    for name in ("__code__", "__defaults__", "__self__", "__func__"):
        refused(function + b"N}" + text(name) + b"Ns\x86b", tmp_path)
    assert vars(stand_ins.StandIns) == before


def refused(content: bytes, tmp_path: Path) -> None:
    modules = set(sys.modules)
    canary = tmp_path / "canary"
    with pytest.raises(ArtifactError, match=r"a detector needs|its pickle is damaged") as fault:
        read(tmp_path, content)
    assert "\n" not in str(fault.value)
    assert "a.pt" in str(fault.value)
    assert not canary.exists()
    assert not {name for name in set(sys.modules) - modules if name.startswith("yolov6")}
