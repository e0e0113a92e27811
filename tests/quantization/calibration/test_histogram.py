from __future__ import annotations

import numpy as np
import pytest
import torch

from quantpipe.quantization.calibration.histogram import MAX_BINS, NUM_BINS, Histogram
from quantpipe.quantization.calibration.solvers import START_BIN, entropy_range, squared_error_range
from quantpipe.quantization.number_format import INT8


def filled(*parts: torch.Tensor) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def test_counts_are_numpys() -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    histogram = filled(values)
    magnitudes = values.abs().numpy()
    expected = np.histogram(magnitudes, bins=NUM_BINS, range=(0.0, float(magnitudes.max())))[0]
    assert np.abs(histogram.counts - expected).sum() <= 4  # values a rounding error from an edge
    assert histogram.counts.sum() == 5000
    assert histogram.amax == float(magnitudes.max())


def test_range_grows_by_bins_of_the_first_width() -> None:
    histogram = filled(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5]))
    assert histogram.width == 2.0 / NUM_BINS
    assert len(histogram.counts) == 3 * NUM_BINS // 2
    places = np.flatnonzero(histogram.counts) * histogram.width
    assert np.allclose(places, [0.5, 1.0, 2.0, 3.0], atol=histogram.width)


def test_zeros_before_anything_else_are_counted() -> None:
    histogram = filled(torch.zeros(7), torch.tensor([0.0, 4.0]))
    assert histogram.counts[0] == 8
    assert histogram.counts[-1] == 1


def test_a_tiny_first_batch_does_not_cost_endless_bins() -> None:
    histogram = filled(torch.tensor([1e-6, 5e-7]), torch.linspace(0, 100, 1001))
    assert len(histogram.counts) <= MAX_BINS
    assert histogram.counts.sum() == 1003
    assert histogram.width * len(histogram.counts) >= 100.0 * (1 - 1e-6)
    assert histogram.width < 100.0 / NUM_BINS


def test_half_precision_and_one_value() -> None:
    assert filled(torch.full((3,), 2.0, dtype=torch.float16)).counts.sum() == 3


def test_images_are_counted_one_by_one_where_asked() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, 500, generator=generator) * torch.arange(6.0).reshape(-1, 1)
    histogram = Histogram(by_image=True)
    for start in (0, 2, 4):
        histogram.add(images[start : start + 2], first_image=start)
        histogram.add(images[start : start + 2] / 2, first_image=start)  # read by a second call
    assert histogram.image_amax == images.abs().amax(dim=1).tolist()
    matrix = histogram.image_matrix()
    assert np.array_equal(matrix.sum(axis=0), histogram.counts)
    assert (matrix.sum(axis=1) == 1000).all()
    assert matrix[0, 0] == 1000  # the first image is zero everywhere
    for row, image in zip(matrix, images, strict=True):
        both = torch.cat([image, image / 2])
        last = np.flatnonzero(row)[-1]
        assert abs(last * histogram.width - float(both.abs().max())) <= 1.01 * histogram.width


def test_images_follow_when_bins_merge() -> None:
    histogram = Histogram(by_image=True)
    histogram.add(torch.tensor([[1e-6, 5e-7]]))
    histogram.add(torch.linspace(0, 100, 1001).reshape(1, -1), first_image=1)
    assert np.array_equal(histogram.image_matrix().sum(axis=0), histogram.counts)
    assert histogram.image_matrix().sum(axis=1).tolist() == [2, 1001]


def test_a_resample_of_small_images_can_be_searched() -> None:
    histogram = Histogram(by_image=True)
    histogram.add(torch.stack([torch.linspace(0, 100, 1000), torch.linspace(0, 0.2, 1000)]))
    small = histogram.resampled(np.array([1, 1]))
    assert small.amax == pytest.approx(0.2)
    assert small.counts.sum() == 2000
    for search in (entropy_range, squared_error_range):
        assert 0 < search(small.counts, INT8) * small.width <= 100 * (START_BIN + 1) / NUM_BINS


def test_resampled_zeros_stay_zero() -> None:
    histogram = Histogram(by_image=True)
    histogram.add(torch.zeros(2, 5))
    assert histogram.resampled(np.array([0, 1])).amax == 0.0
    assert histogram.image_matrix().shape == (2, 0)
