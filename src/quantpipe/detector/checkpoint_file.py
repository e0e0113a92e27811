"""The detector's file format: safetensors with a JSON header in the metadata.

The header holds a digest over itself and all tensors, so that a flipped bit is noticed; the tensors
load without running any code.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from quantpipe.detector.checkpoint import REMAKE, Checkpoint
from quantpipe.detector.families import FAMILIES
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
        raise ArtifactError(f"damaged tensors: {error}", path=path, hint=REMAKE) from error
    checkpoint = _from_header(header, tensors, path)
    if checkpoint.weights_digest != header["weights_digest"]:
        raise ArtifactError("its weights were altered", path=path, hint=REMAKE)
    _check(checkpoint, path)
    return checkpoint


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
        raise ArtifactError(not_ours, path=path, hint=REMAKE) from error
    if digest != _header_digest(header):
        raise ArtifactError("its header was altered", path=path, hint=REMAKE)
    return _current(header, path)


def _current(header: dict[str, Any], path: Path) -> dict[str, Any]:
    """The header as today's format has it."""
    match header.get("format_version"):
        case 1:
            try:
                return as_version_2(header)
            except (KeyError, TypeError, ValueError, ConfigurationError) as error:
                raise ArtifactError(f"unusable header: {error}", path=path, hint=REMAKE) from error
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
        raise ArtifactError(f"unusable header: {error}", path=path, hint=REMAKE) from error


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
            raise ArtifactError(f"'{name}' holds a NaN or an infinity", path=path, hint=REMAKE)
