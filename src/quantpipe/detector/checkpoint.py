"""The detector's file format: safetensors with a JSON header in the metadata.

The header holds a digest over itself and all tensors, so that a flipped bit is noticed; the tensors
load without running any code.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from quantpipe.detector.families import FAMILIES
from quantpipe.detector.families.implementation import DetectorNetwork, Implementation
from quantpipe.detector.families.version_1 import as_version_2
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.errors import ArtifactError, ConfigurationError, nearest
from quantpipe.files import canonical_json, sha256_bytes, write_atomic
from quantpipe.given_files import read_bytes
from quantpipe.schema import build

T = TypeVar("T")

FORMAT_VERSION = 2
# One key only: safetensors writes several in no fixed order, and equal checkpoints are equal files.
_METADATA_KEY = "quantpipe.checkpoint"
_REMAKE = "make it again, or give the file that was meant"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained detector and what is known about it.

    Attributes:
        family: Key in the table of families.
        settings: What the family says of the network: JSON values.
        class_names: One name per class, in the order of the scores.
        input: What the network takes.
        tensors: The whole state dict.
        provenance: Where the weights come from.
    """

    family: str
    settings: Mapping[str, Any]
    class_names: tuple[str, ...]
    input: InputSpecification
    tensors: dict[str, Tensor]
    provenance: Mapping[str, str | int | float]

    @property
    def implementation(self) -> Implementation:
        """What its family does with it."""
        return FAMILIES[self.family].implementation()

    @property
    def weights_digest(self) -> str:
        """Identity of the tensors, whatever else the file holds: :func:`weights_digest`."""
        return weights_digest(self.tensors)


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 over names, types, shapes and bytes of ``tensors``, sorted by name.

    The order of ``tensors``, their device and their memory layout play no part.
    """
    digest = sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        title = {"name": name, "dtype": str(tensor.dtype), "shape": list(tensor.shape)}
        digest.update(canonical_json(title).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes ``checkpoint`` to ``path``, whole or not at all; equal checkpoints are equal files.

    Raises:
        ArtifactError: The checkpoint could not be loaded again (see :func:`load_checkpoint`).
        OSError: The file cannot be written; an older one is intact.
    """
    _check(checkpoint, path)
    header = {
        "format_version": FORMAT_VERSION,
        "family": checkpoint.family,
        "settings": dict(checkpoint.settings),
        "class_names": list(checkpoint.class_names),
        "input": asdict(checkpoint.input),
        "provenance": dict(checkpoint.provenance),
        "weights_digest": checkpoint.weights_digest,
    }
    signed = {**header, "header_digest": _header_digest(header)}
    tensors = {name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()}
    content = safetensors.torch.save(tensors, {_METADATA_KEY: canonical_json(signed)})
    write_atomic(path, content)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint and checks that it is whole.

    Raises:
        ArtifactError: The file cannot be read, is truncated or altered, is no checkpoint of ours,
            lacks a tensor or has one too many, or holds a NaN or an infinity.
    """
    content = read_bytes(path, ArtifactError)
    header = _read_header(content, path)
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(f"damaged tensors: {error}", path=path, hint=_REMAKE) from error
    checkpoint = _from_header(header, tensors, path)
    if checkpoint.weights_digest != header["weights_digest"]:
        raise ArtifactError("its weights were altered", path=path, hint=_REMAKE)
    _check(checkpoint, path)
    return checkpoint


def restore_detector(checkpoint: Checkpoint) -> DetectorNetwork:
    """Returns the detector of ``checkpoint`` in evaluation mode, with tensors of its own."""
    tensors = {name: tensor.detach().clone() for name, tensor in checkpoint.tensors.items()}
    return checkpoint.implementation.restore(replace(checkpoint, tensors=tensors))


def as_deployed(checkpoint: Checkpoint) -> Checkpoint:
    """Returns the checkpoint of the network that is deployed, which computes the same."""
    return checkpoint.implementation.deploy(checkpoint)


def operation_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Returns the quantizable operations of a deployed checkpoint in execution order."""
    return checkpoint.implementation.operations(checkpoint)


def require_tensors(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    """Raises ArtifactError unless a checkpoint has exactly the tensors that its network needs."""
    missing = sorted(expected.keys() - checkpoint.tensors.keys())
    extra = sorted(checkpoint.tensors.keys() - expected.keys())
    for problem, names in (("lacks", missing), ("has no use for", extra)):
        if names:
            cause = f"{problem} {len(names)} tensors, the first is '{names[0]}'"
            raise ArtifactError(cause, hint=_REMAKE)
    for name, tensor in checkpoint.tensors.items():
        want = expected[name]
        if (tensor.shape, tensor.dtype) != (want.shape, want.dtype):
            raise ArtifactError(
                f"'{name}' is {tensor.dtype} {list(tensor.shape)}, "
                f"not {want.dtype} {list(want.shape)}"
            )


def _header_digest(header: Mapping[str, Any]) -> str:
    return sha256_bytes(canonical_json(header).encode())


def _read_header(content: bytes, path: Path) -> dict[str, Any]:
    """Returns our header, whose digest has been checked."""
    not_ours = "is not a quantpipe checkpoint"
    try:
        (length,) = struct.unpack_from("<Q", content)
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        header = json.loads(metadata[_METADATA_KEY])
        digest = header.pop("header_digest")
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(not_ours, path=path, hint=_REMAKE) from error
    if digest != _header_digest(header):
        raise ArtifactError("its header was altered", path=path, hint=_REMAKE)
    return _current(header, path)


def _current(header: dict[str, Any], path: Path) -> dict[str, Any]:
    """The header as today's format has it."""
    match header.get("format_version"):
        case 1:
            try:
                return as_version_2(header)
            except (KeyError, TypeError, ValueError, ConfigurationError) as error:
                raise ArtifactError(f"unusable header: {error}", path=path, hint=_REMAKE) from error
        case 2:
            return header
        case other:
            raise ArtifactError(
                f"format version {other}, this program reads {FORMAT_VERSION}",
                path=path,
                hint="use the program that wrote it, or make it again",
            )


def _from_header(header: Mapping[str, Any], tensors: dict[str, Tensor], path: Path) -> Checkpoint:
    try:
        return Checkpoint(
            family=_expected(header, "family", str),
            settings=_expected(header, "settings", dict),
            class_names=tuple(_expected(header, "class_names", list)),
            input=build(InputSpecification, header["input"], "input"),
            tensors=tensors,
            provenance=_expected(header, "provenance", dict),
        )
    except (KeyError, TypeError, ConfigurationError) as error:
        raise ArtifactError(f"unusable header: {error}", path=path, hint=_REMAKE) from error


def _expected(header: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = header[name]
    if not isinstance(value, kind):
        raise TypeError(f"'{name}' is no {kind.__name__}")
    return value


def _check(checkpoint: Checkpoint, path: Path) -> None:
    """Raises ArtifactError unless ``checkpoint`` describes one whole detector."""
    family = FAMILIES.get(checkpoint.family)
    if family is None:
        raise ArtifactError(
            f"'{checkpoint.family}' is no family of detectors",
            path=path,
            hint=nearest(str(checkpoint.family), FAMILIES),
        )
    try:
        family.implementation().check(checkpoint)
    except ArtifactError as error:
        error.path = path
        raise
    for name, tensor in checkpoint.tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"'{name}' holds a NaN or an infinity", path=path, hint=_REMAKE)
