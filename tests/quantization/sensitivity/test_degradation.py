from __future__ import annotations

import math

import numpy as np
import pytest

from quantpipe.errors import DataError, NumericalError
from quantpipe.quantization.sensitivity.degradation import (
    MeanDegradation,
    bootstrap_errors,
    mean_degradation,
    reliability,
    spearman,
)


def test_the_degradation_is_the_mean_over_the_images_counted() -> None:
    degradation = mean_degradation({"a": [1.0, 2.0, 6.0], "b": [0.0, 0.0, 3.0]})
    counted = degradation.resampled(np.array([[1, 1, 1], [2, 0, 1]]))
    np.testing.assert_allclose(counted, [[3.0, 1.0], [8 / 3, 1.0]])


def test_the_standard_error_is_that_of_the_mean() -> None:
    degradation = mean_degradation({"a": [1.0, 2.0, 6.0]})
    expected = math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 2) / math.sqrt(3)
    errors = degradation.standard_errors(seed=0)
    assert errors is not None
    assert errors[0] == pytest.approx(expected)
    assert mean_degradation({"a": [1.0]}).standard_errors(seed=0) is None


def test_resamples_find_the_error_of_a_mean() -> None:
    """The bootstrap's value is s sqrt((n-1)/n) / sqrt(n) but for the number of resamples."""
    degradation = MeanDegradation(values=np.random.default_rng(0).normal(size=(40, 60)))
    errors = degradation.standard_errors(seed=0)
    assert errors is not None
    ratio = bootstrap_errors(degradation, seed=1) / errors
    assert np.mean(ratio) == pytest.approx(math.sqrt(59 / 60), abs=0.03)
    assert np.all(abs(ratio - 1) < 0.35)


@pytest.mark.parametrize("seed", range(3))
def test_noise_ranks_unreliably_and_a_signal_reliably(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(59, 128))
    found = reliability(MeanDegradation(values=noise), seed=0)
    assert found is not None
    assert abs(found) < 0.2
    signal = np.linspace(0, 10, 59)[:, None]
    found = reliability(MeanDegradation(values=noise + signal), seed=0)
    assert found is not None
    assert found > 0.97


def test_reliability_is_the_correlation_of_the_two_halves() -> None:
    """With as much signal as noise in a half, true rankings correlate by 1/2."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, 1)) + rng.normal(size=(4000, 8)) * math.sqrt(4)
    found = reliability(MeanDegradation(values=values), seed=0)
    # Spearman's of a bivariate normal: 6/pi asin(r/2).
    assert found == pytest.approx(6 / math.pi * math.asin(0.25), abs=0.03)


def test_one_image_has_no_halves() -> None:
    assert reliability(MeanDegradation(values=np.ones((3, 1))), seed=0) is None


def test_spearman_by_its_definition() -> None:
    first, second = np.array([3.0, 1.0, 4.0, 1.5, 9.0]), np.array([2.0, 7.0, 1.0, 8.0, 28.0])
    squares = sum((a - b) ** 2 for a, b in zip((3, 1, 4, 2, 5), (2, 3, 1, 4, 5), strict=True))
    assert spearman(first, second) == pytest.approx(1 - 6 * squares / (5 * 24))
    assert spearman(first, first) == pytest.approx(1.0)
    assert spearman(first, -first) == pytest.approx(-1.0)
    assert spearman(first, np.exp(first)) == pytest.approx(1.0)
    assert spearman(first, np.zeros(5)) == 0.0


def test_ties_share_their_mean_rank() -> None:
    ranks = np.array([1.5, 1.5, 3.0])
    expected = np.corrcoef(ranks, [1.0, 2.0, 3.0])[0, 1]
    assert spearman(np.array([0.0, 0.0, 5.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(expected)


def test_no_images_and_no_numbers() -> None:
    with pytest.raises(DataError, match="no image"):
        mean_degradation({"a": [], "b": []})
    with pytest.raises(NumericalError, match="image 1 gives a NaN or an infinity"):
        mean_degradation({"a": [1.0, 2.0], "b": [1.0, float("nan")]})
