from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_file import load_checkpoint, save_checkpoint
from quantpipe.detector.families.yolov6.architecture import Architecture, BlockForm
from quantpipe.detector.families.yolov6.checkpoint import Description
from quantpipe.detector.families.yolov6.family import input_of
from quantpipe.detector.families.yolov6.network import build_detector
from quantpipe.errors import ArtifactError
from quantpipe.files import canonical_json, sha256_bytes


@pytest.fixture
def small(make_architecture: Callable[..., Architecture]) -> Architecture:
    return make_architecture(width=0.0625, depth=0.05)


def _checkpoint(architecture: Architecture, form: BlockForm = "repopt") -> Checkpoint:
    return Checkpoint(
        family="yolov6",
        settings=Description(architecture, form).settings(),
        class_names=("disc", "square", "größer"),
        input=input_of((64, 64)),
        tensors=build_detector(architecture, form, seed=2).state_dict(),
        provenance={"epochs": 3, "map": 0.25, "data": "shapes"},
    )


@pytest.mark.parametrize("form", ["repvgg", "linear_add", "repopt", "deploy"])
def test_what_is_saved_is_loaded(small: Architecture, form: BlockForm, tmp_path: Path) -> None:
    saved = replace(_checkpoint(small, form), input=input_of((64, 96)))
    save_checkpoint(tmp_path / "a.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert replace(loaded, tensors={}) == replace(saved, tensors={})
    assert loaded.tensors.keys() == saved.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], t) for name, t in saved.tensors.items())
    assert loaded.weights_digest == saved.weights_digest
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_equal_checkpoints_are_equal_files(small: Architecture, tmp_path: Path) -> None:
    checkpoint = _checkpoint(small)
    shuffled = replace(checkpoint, tensors=dict(reversed(checkpoint.tensors.items())))
    save_checkpoint(tmp_path / "a", checkpoint)
    save_checkpoint(tmp_path / "b", shuffled)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_truncation_is_refused(small: Architecture, tmp_path: Path) -> None:
    path = tmp_path / "a"
    save_checkpoint(path, _checkpoint(small))
    content = path.read_bytes()
    for length in (0, 4, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError) as caught:
            load_checkpoint(path)
        assert caught.value.path == path


def test_every_flipped_bit_is_refused(small: Architecture, tmp_path: Path) -> None:
    path = tmp_path / "a"
    save_checkpoint(path, _checkpoint(small, "deploy"))
    content = path.read_bytes()
    (header,) = struct.unpack_from("<Q", content)
    rng = np.random.default_rng(0)
    places = [*rng.integers(0, 8 + header, 150), *rng.integers(8 + header, len(content), 50)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            load_checkpoint(path)


def _without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key != name}


def _poisoned(tensors: dict[str, Tensor], name: str, value: float) -> dict[str, Tensor]:
    poisoned = tensors[name].clone()
    poisoned.view(-1)[-1] = value
    return {**tensors, name: poisoned}


STEM = "backbone.stem.conv.weight"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda t: _without(t, STEM), f"lacks 1 tensors, the first is '{STEM}'"),
        (lambda t: {**t, "extra": torch.zeros(1)}, "has no use for 1 tensors"),
        (lambda t: {**t, STEM: t[STEM].half()}, "is torch.float16"),
        (lambda t: {**t, STEM: t[STEM][:, :2]}, r"is torch.float32 \[8, 2, 3, 3\], not"),
        (lambda t: _poisoned(t, STEM, float("nan")), "holds a NaN or an infinity"),
        (lambda t: _poisoned(t, STEM, float("inf")), "holds a NaN or an infinity"),
    ],
)
def test_tensors_that_are_no_detector_are_refused(
    small: Architecture,
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    cause: str,
) -> None:
    checkpoint = _checkpoint(small)
    broken = replace(checkpoint, tensors=change(checkpoint.tensors))
    with pytest.raises(ArtifactError, match=cause):
        save_checkpoint(tmp_path / "a", broken)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"class_names": ("a", "b")}, "2 class names for 3 classes"),
        ({"settings": {"form": "fused"}}, "unusable header"),
        ({"input": input_of((100, 64))}, "image size 100 is not a multiple of 32"),
        ({"family": "yolov7"}, "'yolov7' is no family of detectors"),
    ],
)
def test_descriptions_that_contradict_themselves_are_refused(
    small: Architecture, tmp_path: Path, change: dict[str, Any], cause: str
) -> None:
    with pytest.raises(ArtifactError, match=cause):
        save_checkpoint(tmp_path / "a", replace(_checkpoint(small), **change))


def test_a_foreign_tensor_file_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "a", {"format": "pt"})
    with pytest.raises(ArtifactError, match="is not a quantpipe checkpoint"):
        load_checkpoint(tmp_path / "a")


class _Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps(_Canary(tmp_path / "ran")))
    torch.save({"model": _Canary(tmp_path / "ran")}, tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        with pytest.raises(ArtifactError, match="is not a quantpipe checkpoint"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path, cause in ((tmp_path / "none", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(ArtifactError, match=cause) as caught:
            load_checkpoint(path)
        assert caught.value.path == path


def test_another_format_version_is_refused(
    small: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantpipe.detector.checkpoint_file.FORMAT_VERSION", 3)
    save_checkpoint(tmp_path / "a", _checkpoint(small))
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="format version 3, this program reads 2"):
        load_checkpoint(tmp_path / "a")


def _header_text(path: Path) -> str:
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    return str(json.loads(content[8 : 8 + length])["__metadata__"]["quantpipe.checkpoint"])


def test_the_header_is_plain_json(small: Architecture, tmp_path: Path) -> None:
    checkpoint = _checkpoint(small)
    save_checkpoint(tmp_path / "a", checkpoint)
    header = json.loads(_header_text(tmp_path / "a"))
    assert header["weights_digest"] == checkpoint.weights_digest


@pytest.mark.parametrize(
    "change",
    [
        {"family": None},
        {"family": ["yolov6"]},
        {"settings": None},
        {"settings": {"architecture": {"name": "n"}, "form": "repopt"}},
        {"settings": {"form": ["repopt"]}},
        {"input": None},
        {"input": {"height": 64}},
        {"class_names": 3},
    ],
)
def test_a_forged_header_is_refused(
    small: Architecture, tmp_path: Path, change: dict[str, Any]
) -> None:
    checkpoint = _checkpoint(small)
    save_checkpoint(tmp_path / "a", checkpoint)
    header = json.loads(_header_text(tmp_path / "a"))
    header.pop("header_digest")
    forged = {**header, **change}
    signed = {**forged, "header_digest": sha256_bytes(canonical_json(forged).encode())}
    metadata = {"quantpipe.checkpoint": canonical_json(signed)}
    safetensors.torch.save_file(checkpoint.tensors, tmp_path / "b", metadata)
    with pytest.raises(ArtifactError):
        load_checkpoint(tmp_path / "b")


def test_a_checkpoint_of_the_first_format_is_read_as_what_it_was(
    small: Architecture, tmp_path: Path
) -> None:
    """It named no family, and the side of a square."""
    checkpoint = _checkpoint(small)
    header = {
        "format_version": 1,
        "architecture": asdict(small),
        "form": "repopt",
        "class_names": list(checkpoint.class_names),
        "image_size": 64,
        "precision_plan": None,
        "provenance": dict(checkpoint.provenance),
        "weights_digest": checkpoint.weights_digest,
    }
    signed = {**header, "header_digest": sha256_bytes(canonical_json(header).encode())}
    metadata = {"quantpipe.checkpoint": canonical_json(signed)}
    safetensors.torch.save_file(checkpoint.tensors, tmp_path / "old", metadata)
    save_checkpoint(tmp_path / "new", checkpoint)
    old, new = (load_checkpoint(tmp_path / name) for name in ("old", "new"))
    assert replace(old, tensors={}) == replace(new, tensors={})
    assert old.weights_digest == new.weights_digest


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    nested = b"[" * 200_000
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(nested)) + nested)
    with pytest.raises(ArtifactError, match="is not a quantpipe checkpoint"):
        load_checkpoint(tmp_path / "a")
