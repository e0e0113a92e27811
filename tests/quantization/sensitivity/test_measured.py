from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.quantization.conftest import predict, switched
from torch import Tensor, nn

from quantpipe.errors import DataError, Interrupted, NumericalError
from quantpipe.progress import Silent
from quantpipe.quantization.output_error import OUTPUT_ERRORS, ErrorMeasure
from quantpipe.quantization.records import Record
from quantpipe.quantization.sensitivity.degradation import Counts, Floats
from quantpipe.quantization.sensitivity.measured import by_loss, by_map, by_output
from quantpipe.quantization.sensitivity.ranking import RankingTask, rank_operations
from quantpipe.quantization.sensitivity.table import Accuracy, Direction

NUM_IMAGES = 12


class Losses:
    """A loss of each image, and how often it was asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        self.calls += 1
        left, right = predict(network, images)
        return left.square().flatten(1).mean(dim=1) + right.abs().flatten(1).mean(dim=1)


def changed(seen: Tensor, in_float: Tensor) -> Tensor:
    """Looks at the float network too, as a loss with its targets does."""
    return seen * (1 + in_float)


class Matches:
    """Stands for matched detections: an image's quality is what was seen of it."""

    def __init__(self, records: Sequence[Record]):
        self.quality: NDArray[Any] = np.concatenate([record["quality"] for record in records])
        self.num_images = len(self.quality)

    def average_precision(self) -> Accuracy:
        value = float(self.resampled(np.ones((1, self.num_images), dtype=np.int64))[0])
        return Accuracy(map50=value + 0.1, map=value)

    def resampled(self, multiplicities: Counts) -> Floats:
        """Not a mean of images, as average precision is none."""
        means: Floats = np.sqrt(multiplicities @ self.quality / multiplicities.sum(axis=1))
        return means


def detect(network: nn.Module, images: Tensor) -> Record:
    quality = torch.exp(-Losses()(network, images))
    return {"quality": quality.double().numpy()}


def in_direction(task: RankingTask[Tensor], direction: Direction) -> RankingTask[Tensor]:
    return dataclasses.replace(task, direction=direction)


@pytest.mark.parametrize("direction", ["only", "all_but"])
def test_loss_is_the_change_of_each_images_loss(
    task: RankingTask[Tensor], direction: Direction
) -> None:
    task = in_direction(task, direction)
    table = rank_operations("loss", by_loss(Losses(), changed), task)
    images = torch.cat(list(task.batches))
    sign = 1 if direction == "only" else -1
    with torch.no_grad():
        in_float = Losses()(task.network, images)
        before = changed(Losses()(switched(task, None), images), in_float).double()
        for row in table.rows:
            after = changed(Losses()(switched(task, row.name), images), in_float).double()
            change = sign * (after - before)
            assert row.score == pytest.approx(float(change.mean()), abs=2e-7)
            error = float(change.std()) / NUM_IMAGES**0.5
            assert row.standard_error == pytest.approx(error, abs=2e-7)
    assert [row.score for row in table.rows] == sorted(row.score for row in table.rows)
    assert (table.method, table.direction, table.num_images) == ("loss", direction, NUM_IMAGES)
    assert table.weights_digest == task.scales.weights_digest


@pytest.mark.parametrize("direction", ["only", "all_but"])
@pytest.mark.parametrize("error", list(OUTPUT_ERRORS))
def test_output_is_the_error_against_the_float_network(
    task: RankingTask[Tensor], direction: Direction, error: ErrorMeasure
) -> None:
    task = in_direction(task, direction)

    def as_detector(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, A, C) logits and (B, A, 4) positive distances."""
        left, right = predict(network, images)
        return left.flatten(2).transpose(1, 2), right.flatten(2).transpose(1, 2).abs()

    measure = OUTPUT_ERRORS[error]
    table = rank_operations("output", by_output(as_detector, measure), task)
    images = torch.cat(list(task.batches))
    with torch.no_grad():
        exact = as_detector(task.network, images)
        before = measure.measure(as_detector(switched(task, None), images), exact)
        for row in table.rows:
            after = measure.measure(as_detector(switched(task, row.name), images), exact)
            degradation = after if direction == "only" else before - after
            assert row.score == pytest.approx(float(degradation.mean()), rel=1e-3, abs=1e-8)


@pytest.mark.parametrize("direction", ["only", "all_but"])
def test_map_is_that_of_the_switched_network(
    task: RankingTask[Tensor], direction: Direction
) -> None:
    task = in_direction(task, direction)
    table = rank_operations("map", by_map(detect, Matches), task)
    images = torch.cat(list(task.batches))
    with torch.no_grad():
        before = Matches([detect(switched(task, None), images)])
        assert table.baseline == pytest.approx(before.average_precision().map, abs=1e-7)
        for row in table.rows:
            accuracy = Matches([detect(switched(task, row.name), images)]).average_precision()
            assert row.score == row.map
            assert row.score == pytest.approx(accuracy.map, abs=1e-7)
            assert row.map50 == pytest.approx(accuracy.map50, abs=1e-7)
            lost = before.average_precision().map - accuracy.map
            assert row.drop == pytest.approx(lost if direction == "only" else -lost, abs=1e-7)
            assert row.standard_error is not None
    assert [row.drop for row in table.rows] == sorted(row.drop or 0.0 for row in table.rows)


def test_the_error_of_map_is_that_of_a_paired_difference(task: RankingTask[Tensor]) -> None:
    """Images differ by far more than any operation changes them."""
    table = rank_operations("map", by_map(detect, Matches), task)
    degradation = by_map(detect, Matches)(task).degradation
    drawn = np.random.default_rng(5).multinomial(12, np.full(12, 1 / 12), size=4000)
    spread = dict(zip(task.names, degradation.resampled(drawn).std(axis=0), strict=True))
    for row in table.rows:
        assert row.standard_error == pytest.approx(spread[row.name], rel=0.35)


def test_passes_count_what_was_computed(task: RankingTask[Tensor]) -> None:
    """Nine calls, ``pool`` has two of them: 1 for the reference and 9, 8, 6, 5, 4, ... of 9."""
    table = rank_operations("loss", by_loss(Losses(), changed), task)
    assert table.passes == pytest.approx(1 + (9 + 8 + 6 + 5 + 4 + 3 + 2 + 1) / 9)
    assert table.seconds is not None
    assert table.seconds > 0


class StopsAfter(Silent):
    def __init__(self, count: int) -> None:
        self.left = count

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("stop", [1, 2, 9, 10, 26])
def test_a_stopped_run_goes_on_where_it_was(
    task: RankingTask[Tensor], tmp_path: Path, stop: int
) -> None:
    whole = dataclasses.replace(task, progress_folder=tmp_path / "whole")
    expected = rank_operations("loss", by_loss(Losses(), changed), whole)
    first, second = Losses(), Losses()
    with pytest.raises(Interrupted):
        rank_operations(
            "loss", by_loss(first, changed), dataclasses.replace(task, progress=StopsAfter(stop))
        )
    resumed = rank_operations("loss", by_loss(second, changed), task)
    assert resumed == expected
    assert first.calls == stop
    # The reference of a batch that was begun is computed again.
    assert second.calls == 27 - stop + (1 if stop % 9 else 0)


def test_a_run_that_dies_keeps_what_was_measured(task: RankingTask[Tensor]) -> None:
    losses = Losses()

    def dies(network: nn.Module, images: Tensor) -> Tensor:
        if losses.calls == 13:
            raise MemoryError
        return losses(network, images)

    with pytest.raises(MemoryError):
        rank_operations("loss", by_loss(dies, changed), task)
    second = Losses()
    rank_operations("loss", by_loss(second, changed), task)
    assert second.calls == 27 - 13 + 1


def test_records_of_other_scales_methods_and_directions_are_not_taken(
    task: RankingTask[Tensor],
) -> None:
    rank_operations("loss", by_loss(Losses(), changed), task)
    again = Losses()
    rank_operations("loss", by_loss(again, changed), task)
    assert again.calls == 0
    scales = dataclasses.replace(task.scales, weights_digest="other")
    for other in (
        dataclasses.replace(task, scales=scales),
        in_direction(task, "all_but"),
    ):
        again = Losses()
        rank_operations("loss", by_loss(again, changed), other)
        assert again.calls >= 27
    table = rank_operations("map", by_map(detect, Matches), task)
    assert all(row.map is not None for row in table.rows)


def test_no_images_and_nan(task: RankingTask[Tensor]) -> None:
    empty = dataclasses.replace(task, batches=[], num_batches=0)
    with pytest.raises(DataError, match="no image"):
        rank_operations("loss", by_loss(Losses(), changed), empty)
    damaged = [batch.clone() for batch in task.batches]
    damaged[1][2] = float("nan")
    with pytest.raises(NumericalError, match="image 6"):
        rank_operations(
            "loss", by_loss(Losses(), changed), dataclasses.replace(task, batches=damaged)
        )


def test_one_image_has_neither_error_nor_reliability(task: RankingTask[Tensor]) -> None:
    one = dataclasses.replace(task, batches=[next(iter(task.batches))[:1]], num_batches=1)
    for name, method in (("loss", by_loss(Losses(), changed)), ("map", by_map(detect, Matches))):
        table = rank_operations(name, method, one)  # type: ignore[arg-type]
        assert all(row.standard_error is None for row in table.rows)
        assert table.reliability is None
