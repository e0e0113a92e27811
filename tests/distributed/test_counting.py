"""Calibration images shared by two ranks over gloo."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.distributed.counting import NUM_IMAGES, Job, count
from tests.quantization.conftest import SmallNetwork

from quantpipe.distributed.ranks import run_together
from quantpipe.errors import NumericalError
from quantpipe.process_group import SingleProcess
from quantpipe.progress import Silent
from quantpipe.quantization.calibration.collect import Statistics, solve
from quantpipe.quantization.number_format import INT8

pytestmark = pytest.mark.slow


@pytest.fixture
def job() -> Job:
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(NUM_IMAGES, 3, 32, 32, generator=generator)
    images *= torch.linspace(0.5, 2.0, NUM_IMAGES).reshape(-1, 1, 1, 1)
    network = SmallNetwork().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = max(parameter[0].numel(), 4)
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(values * (2.0 / fan_in) ** 0.5)
    return Job(network, images, by_image=True)


def shared(job: Job) -> Statistics:
    return run_together(
        lambda processes: count(processes, job),
        count,
        job,
        size=2,
        device="cpu",
        timeout_seconds=60,
    )


def test_two_ranks_count_what_one_does(job: Job) -> None:
    alone, two = count(SingleProcess(), job), shared(job)
    assert two.num_images == alone.num_images == NUM_IMAGES
    assert two.histograms["left"] is two.histograms["right"]
    for name, expected in alone.histograms.items():
        found = two.histograms[name]
        assert found.amax == pytest.approx(expected.amax, rel=1e-6)
        assert found.width == pytest.approx(expected.width, rel=1e-6)
        assert found.counts.sum() == expected.counts.sum()
        # A convolution of fewer images may round otherwise, and move a value over an edge.
        assert np.abs(found.counts - expected.counts).sum() <= 1e-2 * expected.counts.sum(), name
        assert found.image_amax == pytest.approx(expected.image_amax, rel=1e-6)
        per_image = found.image_matrix()
        assert np.array_equal(per_image.sum(axis=1), expected.image_matrix().sum(axis=1))
        assert np.array_equal(per_image.sum(axis=0), found.counts)
    methods: list[tuple[Any, float | None]] = [("max", None), ("percentile", 99.0)]
    for method, percentile in methods:
        ranges = [
            solve(s, method, percentile=percentile, progress=Silent(), number_format=INT8)
            for s in (alone, two)
        ]
        for name, histogram in alone.histograms.items():
            assert ranges[0][name] == pytest.approx(ranges[1][name], abs=2 * histogram.width)


def test_a_rank_may_have_no_image_at_all(job: Job) -> None:
    one = replace(job, images=job.images[:1])
    alone, two = count(SingleProcess(), one), shared(one)
    assert two.num_images == alone.num_images == 1
    for name, expected in alone.histograms.items():
        assert two.histograms[name].amax == expected.amax
        assert np.array_equal(two.histograms[name].counts, expected.counts)
        assert two.histograms[name].image_amax == expected.image_amax


@pytest.mark.parametrize("number", [2, 7])  # of rank 0, of rank 1
def test_a_nan_names_the_image_of_whichever_rank(job: Job, number: int) -> None:
    job.images[number, 0, 3, 3] = float("nan")
    with pytest.raises(NumericalError, match=rf"image {number}\.jpg .*'stem'"):
        shared(job)
