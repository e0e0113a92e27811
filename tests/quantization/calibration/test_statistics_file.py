from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quantpipe.errors import ArtifactError
from quantpipe.progress import Silent
from quantpipe.quantization.calibration.collect import Statistics, solve
from quantpipe.quantization.calibration.histogram import Histogram
from quantpipe.quantization.calibration.statistics_file import load_statistics, save_statistics
from quantpipe.quantization.number_format import INT8


@pytest.fixture
def statistics() -> Statistics:
    generator = torch.Generator().manual_seed(0)
    shared, own = Histogram(), Histogram()
    for scale in (1.0, 3.0):  # the second makes the range grow
        shared.add(scale * torch.randn(5000, generator=generator))
        own.add(scale * torch.rand(700, generator=generator))
    return Statistics(histograms={"a": shared, "b": own, "c": shared}, num_images=2)


def test_every_method_solves_what_was_read_back_to_the_same_bits(
    statistics: Statistics, tmp_path: Path
) -> None:
    save_statistics(tmp_path / "s.npz", statistics)
    read = load_statistics(tmp_path / "s.npz")
    for method, percentile in (
        ("max", None),
        ("percentile", 99.9),
        ("entropy", None),
        ("mse", None),
    ):
        settings: Any = {"method": method, "percentile": percentile}
        wanted = solve(statistics, number_format=INT8, progress=Silent(), **settings)
        assert solve(read, number_format=INT8, progress=Silent(), **settings) == wanted


def test_counts_and_sharing_survive(statistics: Statistics, tmp_path: Path) -> None:
    save_statistics(tmp_path / "s.npz", statistics)
    read = load_statistics(tmp_path / "s.npz")
    assert read.num_images == 2
    assert read.histograms["a"] is read.histograms["c"]
    for name, histogram in statistics.histograms.items():
        assert np.array_equal(read.histograms[name].counts, histogram.counts)
        assert read.histograms[name].counts.sum() in (10_000, 1_400)


def test_what_each_image_added_survives(tmp_path: Path) -> None:
    counted, zero = Histogram(by_image=True), Histogram(by_image=True)
    counted.add(torch.rand(3, 400, generator=torch.Generator().manual_seed(2)))
    zero.add(torch.zeros(3, 5))
    statistics = Statistics(histograms={"a": counted, "b": zero}, num_images=3)
    save_statistics(tmp_path / "s.npz", statistics)
    read = load_statistics(tmp_path / "s.npz")
    drawn = np.array([0, 2, 2])
    for name, histogram in statistics.histograms.items():
        found, expected = read.histograms[name].resampled(drawn), histogram.resampled(drawn)
        assert np.array_equal(found.counts, expected.counts)
        assert (found.amax, found.width) == (expected.amax, expected.width)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY"])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.npz").write_bytes(content)
    with pytest.raises(ArtifactError, match="not readable as calibration statistics"):
        load_statistics(tmp_path / "s.npz")
