"""A detector is known by its tensors' names, types, shapes and values, and by nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from quantpipe.detector.checkpoint import weights_digest


def test_digest_sees_content_and_not_layout() -> None:
    tensor = torch.arange(48.0).view(2, 3, 4, 2)
    base = weights_digest({"a": tensor, "b": torch.tensor(3)})
    strided = tensor.contiguous(memory_format=torch.channels_last)
    assert weights_digest({"b": torch.tensor(3), "a": strided}) == base
    changed: list[dict[str, Tensor]] = [
        {"a": tensor.view(2, 3, 2, 4), "b": torch.tensor(3)},
        {"a": tensor, "b": torch.tensor(3, dtype=torch.int32)},
        {"a": tensor, "c": torch.tensor(3)},
        {"a": tensor, "b": torch.tensor(4)},
        {"a": tensor},
    ]
    assert len({base, *map(weights_digest, changed)}) == 6
