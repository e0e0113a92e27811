"""From the pixels of a batch to the numbers that a network takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantpipe.detector.input_specification import InputSpecification


def network_input(images: Tensor, specification: InputSpecification) -> Tensor:
    """Returns images (B, 3, H, W), uint8 RGB, as a network takes them: float32, same device."""
    if specification.colors == "bgr":
        images = images.flip(1)
    values = images.float().div_(specification.divisor)
    if any(specification.mean):
        values.sub_(_by_channel(specification.mean, values))
    if set(specification.std) != {1.0}:
        values.div_(_by_channel(specification.std, values))
    return values


def as_array(specification: InputSpecification) -> Callable[[Any], NDArray[np.float32]]:
    """What makes arrays that a network takes of the images of a batch, on the processor."""

    def prepare(images: Tensor) -> NDArray[np.float32]:
        array: NDArray[np.float32] = network_input(images, specification).numpy()
        return array

    return prepare


def _by_channel(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)
