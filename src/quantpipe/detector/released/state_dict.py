"""Weights for those who read them with torch."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from quantpipe.files import write_atomic


def write_state_dict(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a plain state dict that ``torch.load`` reads; atomically."""
    buffer = BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in tensors.items()}, buffer)
    write_atomic(path, buffer.getvalue())
