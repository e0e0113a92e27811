"""A trained detector as a value; what its family makes of it, and its file, stand elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from quantpipe.detector.input_specification import InputSpecification
from quantpipe.errors import ArtifactError
from quantpipe.files import canonical_json

REMAKE = "make it again, or give the file that was meant"


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


def require_tensors(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    """Raises ArtifactError unless a checkpoint has exactly the tensors that its network needs."""
    missing = sorted(expected.keys() - checkpoint.tensors.keys())
    extra = sorted(checkpoint.tensors.keys() - expected.keys())
    for problem, names in (("lacks", missing), ("has no use for", extra)):
        if names:
            cause = f"{problem} {len(names)} tensors, the first is '{names[0]}'"
            raise ArtifactError(cause, hint=REMAKE)
    for name, tensor in checkpoint.tensors.items():
        want = expected[name]
        if (tensor.shape, tensor.dtype) != (want.shape, want.dtype):
            raise ArtifactError(
                f"'{name}' is {tensor.dtype} {list(tensor.shape)}, "
                f"not {want.dtype} {list(want.shape)}"
            )
