"""Ranges against NVIDIA's toolkit on the same histograms, and against exhaustive search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from quantpipe.quantization.calibration.pytorch_quantization import pytorch_quantization_calibrators
from quantpipe.quantization.calibration.solvers import (
    entropy_range,
    percentile_range,
    squared_error_range,
)
from quantpipe.quantization.number_format import INT8

NUM_BINS = 384


def silu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = x / (1 + np.exp(-x))
    return result


def histogram(kind: str, seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    draw: dict[str, Callable[[], NDArray[np.float64]]] = {
        "normal": lambda: rng.normal(size=60000),
        "relu": lambda: np.maximum(rng.normal(size=60000), 0.0),
        "laplace": lambda: rng.laplace(size=60000),
        "heavy tail": lambda: rng.standard_t(3, size=60000),
        "outlier": lambda: np.append(rng.normal(size=60000), 40.0),
        "uniform": lambda: rng.uniform(size=60000),
        "few values": lambda: rng.integers(0, 9, size=60000).astype(float),
        "silu": lambda: silu(rng.normal(size=60000) * 3),
    }
    magnitudes = np.abs(draw[kind]())
    return np.histogram(magnitudes, bins=NUM_BINS, range=(0.0, magnitudes.max()))[0]


KINDS = ["normal", "relu", "laplace", "heavy tail", "outlier", "uniform", "few values", "silu"]


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_is_the_toolkits(kind: str) -> None:
    counts = histogram(kind, 3)
    edges = np.arange(NUM_BINS + 1, dtype=np.float64)
    toolkit = pytorch_quantization_calibrators().histogram._compute_amax_entropy(
        counts.copy(), edges, 8, False
    )
    assert abs(entropy_range(counts, INT8) - float(toolkit)) <= 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_squared_error_is_the_toolkits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The toolkit moves the histogram to CUDA; its arithmetic runs anywhere.
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    counts = histogram(kind, 4)
    edges = np.arange(NUM_BINS + 1, dtype=np.float64)
    toolkit = pytorch_quantization_calibrators().histogram._compute_amax_mse(
        counts, edges, 8, False
    )
    assert abs(squared_error_range(counts, INT8) - float(toolkit)) <= 1.0


@pytest.mark.parametrize("percentile", [0.001, 50.0, 99.0, 99.9, 99.99, 99.999, 100.0])
@pytest.mark.parametrize("kind", KINDS)
def test_percentile_is_the_toolkits(kind: str, percentile: Any) -> None:
    counts = histogram(kind, 5)
    edges = np.arange(NUM_BINS + 1, dtype=np.float64)
    toolkit = pytorch_quantization_calibrators().histogram._compute_amax_percentile(
        counts, edges, percentile
    )
    assert abs(percentile_range(counts, percentile) - float(toolkit)) <= 1.0


def test_squared_error_matches_quantizing_every_value() -> None:
    counts = histogram("heavy tail", 6)
    centers = np.arange(NUM_BINS) + 0.5

    def error(amax: float) -> float:
        scale = amax / 127
        rounded = np.clip(np.round(centers / scale), -127, 127) * scale
        return float((counts * (rounded - centers) ** 2).sum())

    errors = [error(amax) for amax in centers[128:]]
    assert squared_error_range(counts, INT8) == centers[128 + int(np.argmin(errors))]


def test_all_mass_in_the_last_bin_keeps_it() -> None:
    counts = np.zeros(2048, dtype=np.int64)
    counts[-1] = 10
    assert entropy_range(counts, INT8) == 2048
    assert percentile_range(counts, 99.0) >= 2047
    assert squared_error_range(counts, INT8) >= 2040


def test_all_mass_in_the_first_bin_gives_a_positive_range() -> None:
    counts = np.zeros(2048, dtype=np.int64)
    counts[0] = 10
    assert percentile_range(counts, 50.0) == 1.0
    assert entropy_range(counts, INT8) > 0
