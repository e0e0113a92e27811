"""Running any number of images through engines of fixed batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from quantpipe.engines.contract import Images, Predictions


def run_in_batches(
    run_batch: Callable[[Images], Predictions], images: Images, batch_sizes: Sequence[int]
) -> Predictions:
    """Returns the predictions of all images, computed in batches of the given sizes only.

    Args:
        run_batch: Computes one batch; its result is kept, so it must be its own memory.
        images: (B, 3, H, W).
        batch_sizes: What ``run_batch`` takes.
    """
    results = [
        run_batch(padded(images[start:stop], size))[: stop - start]
        for start, stop, size in split_batch(len(images), batch_sizes)
    ]
    return results[0] if len(results) == 1 else np.concatenate(results)


def split_batch(num_images: int, batch_sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yields (start, stop, batch size) so that ``num_images`` pass through fixed batch sizes.

    The largest size that is filled goes first; only the smallest one is ever padded, so the fewest
    images are computed in vain.
    """
    start = 0
    while start < num_images:
        fitting = [size for size in batch_sizes if size <= num_images - start]
        size = max(fitting) if fitting else min(batch_sizes)
        stop = min(start + size, num_images)
        yield start, stop, size
        start = stop


def padded(images: Images, batch_size: int) -> Images:
    """Returns contiguous float32 images (batch_size, 3, H, W), zeros after the given ones."""
    images = np.ascontiguousarray(images, dtype=np.float32)
    if len(images) == batch_size:
        return images
    filler = np.zeros((batch_size - len(images), *images.shape[1:]), dtype=np.float32)
    return np.concatenate([images, filler])
