from __future__ import annotations

import numpy as np
import torch

from quantpipe.quantization.histogram import MAX_BINS, NUM_BINS, Histogram


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
