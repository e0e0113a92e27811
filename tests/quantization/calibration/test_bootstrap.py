from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantpipe.errors import Interrupted
from quantpipe.progress import Progress, Silent
from quantpipe.quantization.calibration.bootstrap import (
    RangeInterval,
    Solve,
    bootstrap_ranges,
    describe_flagged,
    save_intervals,
)
from quantpipe.quantization.calibration.collect import collect, solve
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import find_operations

if TYPE_CHECKING:
    from tests.quantization.conftest import SmallNetwork


def bootstrapped(
    solve: Solve, *, count: int = 400, seed: int = 3, progress: Progress | None = None
) -> tuple[RangeInterval, ...]:
    return bootstrap_ranges(
        solve(np.arange(40)),
        solve,
        num_images=40,
        count=count,
        max_spread=0.05,
        seed=seed,
        progress=progress or Silent(),
    )


def test_the_spread_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(10.0, 2.0, size=40)

    def mean(drawn: NDArray[np.intp]) -> Mapping[str, float]:
        return {"conv": float(values[drawn].mean())}

    (found,) = bootstrapped(mean, count=4000)
    expected = values.std() / np.sqrt(40)
    assert found.name == "conv.input"
    assert found.amax == pytest.approx(values.mean())
    assert found.mean == pytest.approx(values.mean(), abs=0.03)
    assert found.standard_deviation == pytest.approx(expected, rel=0.05)
    assert found.low == pytest.approx(values.mean() - 1.96 * expected, abs=0.1)
    assert found.high == pytest.approx(values.mean() + 1.96 * expected, abs=0.1)


def test_a_range_that_hangs_on_one_image_is_flagged() -> None:
    steady, rare = np.linspace(0.99, 1.0, 40), np.linspace(0.99, 1.0, 40)
    rare[7] = 3.0

    def largest(drawn: NDArray[np.intp]) -> Mapping[str, float]:
        return {"steady": float(steady[drawn].max()), "rare": float(rare[drawn].max())}

    first, second = bootstrapped(largest)
    assert (first.flagged, second.flagged) == (False, True)
    # A draw of 40 from 40 misses one image with probability (1 - 1/40)^40.
    chance = (1 - 1 / 40) ** 40
    assert second.mean == pytest.approx(3.0 - 2.0 * chance, abs=0.15)


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    def count(drawn: NDArray[np.intp]) -> Mapping[str, float]:
        return {"a": float(drawn.mean())}

    assert bootstrapped(count) == bootstrapped(count)
    assert bootstrapped(count) != bootstrapped(count, seed=4)


def test_it_stops_when_asked() -> None:
    class Stopping(Silent):
        def should_stop(self) -> bool:
            return True

    with pytest.raises(Interrupted):
        bootstrapped(lambda drawn: {"a": 1.0}, progress=Stopping())


@pytest.mark.parametrize("method", ["max", "percentile", "entropy", "mse"])
def test_a_resample_is_what_its_images_alone_give(
    network: SmallNetwork, batches: list[Tensor], method: Any
) -> None:
    operations = find_operations(network, batches[0][:1])
    images = torch.cat(batches) * torch.linspace(1.0, 2.0, 12).reshape(-1, 1, 1, 1)
    whole = collect(network, operations, torch.split(images, 4), by_image=True, progress=Silent())
    drawn = np.array([0, 3, 3, 11])
    again = collect(network, operations, [images[:4], images[drawn]], progress=Silent())
    first = collect(network, operations, [images[:4]], progress=Silent())
    resampled = whole.resampled(drawn)
    found = solve(resampled, method, percentile=99.0, progress=Silent(), number_format=INT8)
    for name, histogram in resampled.histograms.items():
        # Both have the width of the first four images; what these add is taken away again.
        rest = again.histograms[name].counts.copy()
        rest[: len(first.histograms[name].counts)] -= first.histograms[name].counts
        expected = np.trim_zeros(rest, "b")
        # The maximum of the first images lies on an edge, others a rounding error from one.
        assert len(expected) == len(histogram.counts), name
        assert np.abs(histogram.counts - expected).sum() <= 1e-3 * expected.sum() + 2, name
        if method == "max":
            seen = collect(network, operations, [images[drawn]], progress=Silent())
            assert found[name] == pytest.approx(seen.histograms[name].amax, rel=1e-6)
        assert 0 < found[name] <= histogram.amax * 1.01


def test_the_note_counts_the_flagged_and_names_the_worst() -> None:
    def interval(name: str, deviation: float) -> RangeInterval:
        limits = {"amax": 1.0, "mean": 1.0, "low": 0.5, "high": 1.5}
        return RangeInterval(
            name=name, standard_deviation=deviation, flagged=deviation > 0.05, **limits
        )

    spread = [0.01, 0.2, 0.06, 0.3, 0.07]
    found = tuple(interval(f"op{i}.input", value) for i, value in enumerate(spread))
    assert describe_flagged(found, 0.05) == (
        "4 of 5 ranges move by more than 0.05 of their size between draws of the images: "
        "op3.input (0.300), op1.input (0.200), op4.input (0.070), ...; they need more images"
    )
    assert describe_flagged(found[:1], 0.05).startswith("0 of 1 ranges move")


def test_the_file_holds_every_number(tmp_path: Path) -> None:
    found = bootstrapped(lambda drawn: {"a": float(drawn.max() + 1)})
    save_intervals(tmp_path / "r.json", found, count=400, max_spread=0.05)
    document = json.loads((tmp_path / "r.json").read_text())
    (entry,) = document["ranges"]
    assert (document["num_resamples"], document["max_spread"]) == (400, 0.05)
    assert RangeInterval(**entry) == found[0]
