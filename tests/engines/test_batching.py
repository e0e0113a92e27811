from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quantpipe.engines.batching import padded, run_in_batches, split_batch


@pytest.mark.parametrize(
    ("num_images", "expected"),
    [
        (1, [(0, 1, 1)]),
        (3, [(0, 1, 1), (1, 2, 1), (2, 3, 1)]),
        (32, [(0, 32, 32)]),
        (34, [(0, 32, 32), (32, 33, 1), (33, 34, 1)]),
    ],
)
def test_the_largest_filled_size_goes_first(num_images: int, expected: Any) -> None:
    assert list(split_batch(num_images, (1, 32))) == expected


@pytest.mark.parametrize("num_images", range(1, 12))
def test_every_image_once_and_only_the_smallest_size_is_padded(num_images: int) -> None:
    parts = list(split_batch(num_images, (4, 8)))
    covered = [index for start, stop, _ in parts for index in range(start, stop)]
    assert covered == list(range(num_images))
    assert all(stop - start == size or size == 4 for start, stop, size in parts)


def test_padding_is_zeros_and_contiguous() -> None:
    images = np.ones((2, 3, 4, 4), dtype=np.float32)[:, ::-1]
    result = padded(images, 3)
    assert result.flags["C_CONTIGUOUS"]
    assert result.shape == (3, 3, 4, 4)
    assert result[:2].all()
    assert not result[2].any()


def test_padding_rows_never_come_back() -> None:
    sizes = []

    def run(images: Any) -> Any:
        sizes.append(len(images))
        return images.sum(axis=(2, 3))[:, None]

    images = np.random.default_rng(0).random((7, 3, 2, 2), dtype=np.float32)
    np.testing.assert_array_equal(
        run_in_batches(run, images, (2, 4)), images.sum(axis=(2, 3))[:, None]
    )
    assert sizes == [4, 2, 2]
