"""The detector's file format: safetensors with a JSON header in the metadata.

The header holds a digest over itself and all tensors, so that a flipped bit is noticed; the tensors
load without running any code.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from quantpipe.detector.families.yolov6.architecture import STRIDES, Architecture, BlockForm
from quantpipe.detector.families.yolov6.network import (
    Detector,
    detector_from_tensors,
    uninitialized_detector,
)
from quantpipe.errors import ArtifactError, ConfigurationError
from quantpipe.files import canonical_json, sha256_bytes, write_atomic

FORMAT_VERSION = 1
# One key only: safetensors writes several in no fixed order, and equal checkpoints are equal files.
_METADATA_KEY = "quantpipe.checkpoint"
_LARGEST_IMAGE = 1 << 14
_REMAKE = "make it again, or give the file that was meant"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained detector and what is known about it.

    Attributes:
        architecture: Size of the network.
        form: How its 3x3 blocks are parameterized.
        class_names: One name per class, in the order of the scores.
        image_size: Side, in pixels, of the square images that it was trained on.
        tensors: The whole state dict.
        precision_plan: Which operations to quantize, as JSON values, or None.
        provenance: Where the weights come from.
    """

    architecture: Architecture
    form: BlockForm
    class_names: tuple[str, ...]
    image_size: int
    tensors: dict[str, Tensor]
    precision_plan: Mapping[str, Any] | None
    provenance: Mapping[str, str | int | float]

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
        "architecture": asdict(checkpoint.architecture),
        "form": checkpoint.form,
        "class_names": list(checkpoint.class_names),
        "image_size": checkpoint.image_size,
        "precision_plan": checkpoint.precision_plan,
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
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", path=path) from error
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


def restore_detector(checkpoint: Checkpoint) -> Detector:
    """Returns the detector of ``checkpoint`` in evaluation mode, with tensors of its own."""
    tensors = {name: tensor.detach().clone() for name, tensor in checkpoint.tensors.items()}
    return detector_from_tensors(checkpoint.architecture, checkpoint.form, tensors)


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
    if header.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"format version {header.get('format_version')}, this program reads {FORMAT_VERSION}",
            path=path,
            hint="use the program that wrote it, or make it again",
        )
    return dict(header)


def _from_header(header: Mapping[str, Any], tensors: dict[str, Tensor], path: Path) -> Checkpoint:
    try:
        return Checkpoint(
            architecture=_architecture(header["architecture"]),
            form=header["form"],
            class_names=tuple(header["class_names"]),
            image_size=header["image_size"],
            tensors=tensors,
            precision_plan=header["precision_plan"],
            provenance=header["provenance"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, ConfigurationError) as error:
        raise ArtifactError(f"unusable header: {error}", path=path, hint=_REMAKE) from error


def _architecture(fields: Mapping[str, Any]) -> Architecture:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Architecture(**values)


def _check(checkpoint: Checkpoint, path: Path) -> None:
    """Raises ArtifactError unless ``checkpoint`` describes one whole detector."""
    num_classes, num_names = checkpoint.architecture.num_classes, len(checkpoint.class_names)
    if num_names != num_classes:
        raise ArtifactError(f"{num_names} class names for {num_classes} classes", path=path)
    if checkpoint.form not in get_args(BlockForm):
        raise ArtifactError(f"unknown form '{checkpoint.form}'", path=path)
    size = checkpoint.image_size
    if type(size) is not int or not 0 < size <= _LARGEST_IMAGE or size % STRIDES[-1]:
        raise ArtifactError(
            f"image size {size!r} is not a multiple of {STRIDES[-1]} from {STRIDES[-1]} to "
            f"{_LARGEST_IMAGE}",
            path=path,
        )
    _check_tensors(checkpoint, path)


def _check_tensors(checkpoint: Checkpoint, path: Path) -> None:
    expected = uninitialized_detector(checkpoint.architecture, checkpoint.form).state_dict()
    missing = sorted(expected.keys() - checkpoint.tensors.keys())
    extra = sorted(checkpoint.tensors.keys() - expected.keys())
    for problem, names in (("lacks", missing), ("has no use for", extra)):
        if names:
            cause = f"{problem} {len(names)} tensors, the first is '{names[0]}'"
            raise ArtifactError(cause, path=path, hint=_REMAKE)
    for name, tensor in checkpoint.tensors.items():
        want = expected[name]
        if (tensor.shape, tensor.dtype) != (want.shape, want.dtype):
            raise ArtifactError(
                f"'{name}' is {tensor.dtype} {list(tensor.shape)}, "
                f"not {want.dtype} {list(want.shape)}",
                path=path,
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"'{name}' holds a NaN or an infinity", path=path, hint=_REMAKE)
