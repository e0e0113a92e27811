"""Images to calibrate with and to measure on: unaugmented, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.loader import evaluation_batches
from quantpipe.data.network_input import network_input
from quantpipe.detector.input_specification import InputSpecification


def sample(num_images: int, count: int, seed: int) -> tuple[int, ...]:
    """``count`` indices without repetition, ascending, the same for the same seed."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(num_images)[:count]
    return tuple(sorted(int(index) for index in chosen))


def float_batches(
    dataset: DetectionDataset,
    indices: Sequence[int],
    *,
    specification: InputSpecification,
    batch_size: int,
    device: str,
) -> Iterator[Tensor]:
    """Yields (B, 3, H, W) float images as a network takes them, not augmented."""
    batches = evaluation_batches(
        dataset, specification=specification, batch_size=batch_size, indices=indices
    )
    for batch, _ in batches:
        yield network_input(batch.images.to(device), specification)


def num_batches(num_images: int, batch_size: int) -> int:
    """Batches that hold ``num_images``."""
    return -(-num_images // batch_size)
