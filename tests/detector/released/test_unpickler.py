"""What a hostile checkpoint may try; the canary is a file that must never come to be."""

from __future__ import annotations

import os
import pickle
import pickletools
import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.detector.released.released_package import released_classes, save_released

from quantpipe.detector.released.tensors import read_state
from quantpipe.errors import ArtifactError

STORAGE = b"\x00\x00\x80?" * 4  # four ones


def archive(path: Path, content: bytes, *, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as writer:
        writer.writestr("archive/data.pkl", content)
        writer.writestr("archive/data/0", STORAGE)
        writer.writestr("archive/byteorder", "little")
    return path


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def called(module: str, name: str, argument: str) -> bytes:
    return f"c{module}\n{name}\n".encode() + text(argument) + b"\x85R"


class Payload:
    """Runs a command when an ordinary unpickler reads it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def refused(path: Path, canary: Path, match: str) -> None:
    modules = set(sys.modules)
    with pytest.raises(ArtifactError, match=match) as fault:
        read_state(path)
    assert "\n" not in str(fault.value)
    assert not canary.exists()
    assert not {name for name in set(sys.modules) - modules if name.startswith("yolov6")}


def test_the_payloads_would_run_in_an_ordinary_unpickler(canary: Path) -> None:
    pickle.loads(pickle.dumps(Payload(os.system, f"touch {canary}")))
    assert canary.exists()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {canary}",)),
        (eval, ("open({canary!r}, 'w')",)),
        (exec, ("open({canary!r}, 'w')",)),
        (getattr, (os, "system")),
        (__import__, ("os",)),
        (open, ("{canary}", "w")),
        (torch.load, ("{canary}",)),
        (Path.touch, ("{canary}",)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("place", ["root", "in a module", "beside the model"])
def test_no_function_of_a_payload_runs(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    place: str,
    canary: Path,
    tmp_path: Path,
) -> None:
    filled = [
        a.format(canary=str(canary)) if isinstance(a, str) else getattr(a, "__name__", a)
        for a in arguments
    ]
    payload = Payload(function, *filled)
    path = tmp_path / "hostile.pt"
    if place == "root":
        torch.save(payload, path)
    elif place == "beside the model":
        save_released(path, {"a.weight": torch.ones(1)}, optimizer=payload)
    else:
        with released_classes() as (model, _):
            module = model()
            module.hidden = payload  # type: ignore[assignment]
            torch.save({"model": module}, path)
    refused(path, canary, "which no checkpoint of a detector needs")


def test_a_foreign_class_that_reduces_to_a_call_builds_a_record_only(
    canary: Path, tmp_path: Path
) -> None:
    """``torch.nn.Module`` as a callable, given a state that names what it likes: inert."""
    content = opcodes(
        b"ctorch.nn\nModule\n)R", b"}", text("__reduce__"), called("os", "system", "true"), b"sb"
    )
    refused(archive(tmp_path / "a.pt", content), canary, "names '(posix|os).system'")


@pytest.mark.parametrize(
    "content",
    [
        called("os", "system", "touch {canary}"),
        called("builtins", "eval", "1"),
        called("__builtin__", "eval", "1"),
        called("posix", "system", "touch {canary}"),
        called("subprocess", "getoutput", "touch {canary}"),
        called("torch.hub", "load", "x"),
        called("torch", "load", "x"),
        called("yolov6_evil", "run", "x"),
        called("torch.nnx", "run", "x"),
        b"(" + text("touch {canary}") + b"ios\nsystem\n",  # INST
        b"(cos\nsystem\n" + text("touch {canary}") + b"o",  # OBJ
        b"\x8c\x02os\x8c\x06system\x93" + text("touch {canary}") + b"\x85R",  # STACK_GLOBAL
        b"\x8c\x08builtins\x8c\x0cobject.__new__\x93.",  # a dotted name
        b"\x82\x01.",  # EXT1
        b"Pthere\n",  # a persistent id that is none
    ],
)
def test_every_way_to_name_a_function_is_refused(
    content: bytes, canary: Path, tmp_path: Path
) -> None:
    raw = content.replace(b"{canary}", b"x")
    refused(archive(tmp_path / "a.pt", opcodes(raw)), canary, "a detector needs|damaged")


def tensor_pickle(size: tuple[int, ...], stride: tuple[int, ...], offset: int, numel: int) -> bytes:
    pieces = [
        b"}", text("model"), b"}", text("w"), b"ctorch._utils\n_rebuild_tensor_v2\n(",
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu"),
        pickle.dumps(numel, 2)[2:-1], b"tQ", pickle.dumps(offset, 2)[2:-1],
        pickle.dumps(size, 2)[2:-1], pickle.dumps(stride, 2)[2:-1], b"\x89}tRss",
    ]  # fmt: skip
    return opcodes(*pieces)


def test_a_tensor_inside_its_storage_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", tensor_pickle((2, 2), (2, 1), 0, 4))
    assert torch.equal(read_state(path)["w"], torch.ones(2, 2))


@pytest.mark.parametrize(
    ("size", "stride", "offset", "numel"),
    [
        ((5,), (1,), 0, 4),
        ((2, 2), (3, 1), 0, 4),
        ((4,), (1,), 1, 4),
        ((4,), (1,), -1, 4),
        ((4,), (-1,), 0, 4),
        ((1 << 40,), (0,), 0, 4),
        ((4,), (1,), 0, 4000),
        ((4, 1), (1,), 0, 4),
        ((1,) * 9, (1,) * 9, 0, 4),
    ],
)
def test_a_tensor_that_reaches_past_its_storage_is_refused(
    size: tuple[int, ...], stride: tuple[int, ...], offset: int, numel: int,
    canary: Path, tmp_path: Path,
) -> None:  # fmt: skip
    path = archive(tmp_path / "a.pt", tensor_pickle(size, stride, offset, numel))
    refused(path, canary, "its pickle is damaged")


def test_a_memo_number_that_would_claim_memory_is_refused(canary: Path, tmp_path: Path) -> None:
    content = opcodes(b"}", b"r" + (0xFFFFFFF0).to_bytes(4, "little"))
    assert any(op.name == "LONG_BINPUT" for op, _, _ in pickletools.genops(content))
    refused(archive(tmp_path / "a.pt", content), canary, "memo number")


def test_a_compressed_archive_is_refused_before_it_is_unpacked(
    canary: Path, tmp_path: Path
) -> None:
    path = archive(tmp_path / "a.pt", b"\x00" * 100_000, compression=zipfile.ZIP_DEFLATED)
    refused(path, canary, "is compressed or too large")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no checkpoint that is known"),
        (b"PK\x03\x04 and no more", "no whole torch archive"),
        (pickle.dumps({"model": 1}), "no checkpoint that is known"),
        (b"GIF89a", "no checkpoint that is known"),
    ],
)
def test_what_is_no_archive_is_refused(
    content: bytes, match: str, canary: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    refused(path, canary, match)


@pytest.mark.parametrize("value", [{}, [], 3, None, {"model": None}, {"model": {"a": 1}}])
def test_an_archive_without_a_model_is_refused(value: Any, canary: Path, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", canary, "holds no model")


def test_modules_that_contain_each_other_end_the_reading(canary: Path, tmp_path: Path) -> None:
    with released_classes() as (model, _):
        module = model()
        module._modules["self"] = module
        torch.save({"model": module}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", canary, "contain each other")


@pytest.mark.slow
def test_damage_anywhere_is_an_error_or_changes_numbers_only(tmp_path: Path) -> None:
    """500 random bit flips and cuts: one line or tensors, never another exception."""
    path = save_released(
        tmp_path / "whole.pt", {"a.b.weight": torch.ones(3, 4), "c.bias": torch.ones(2)}
    )
    whole = path.read_bytes()
    generator = random.Random(0)
    num_refused = 0
    for _ in range(500):
        damaged = bytearray(whole)
        place = generator.randrange(len(damaged))
        if generator.random() < 0.3:
            damaged = damaged[:place]
        else:
            damaged[place] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            state = read_state(path)
        except ArtifactError:
            num_refused += 1
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    assert num_refused > 200
