from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from tests.quantization.conftest import SmallNetwork, predict, switched
from torch import Tensor, nn

from quantpipe.errors import DataError, Interrupted, NumericalError
from quantpipe.progress import Silent
from quantpipe.quantization.output_error import OUTPUT_ERRORS
from quantpipe.quantization.sensitivity.degradation import spearman
from quantpipe.quantization.sensitivity.gradient import by_gradient
from quantpipe.quantization.sensitivity.measured import by_output
from quantpipe.quantization.sensitivity.ranking import RankingTask, rank_operations
from quantpipe.quantization.sensitivity.table import SensitivityTable
from quantpipe.quantization.simulation.network import FakeQuantized

NOISE = OUTPUT_ERRORS["noise"]


def ranked(task: RankingTask[Tensor], num_projections: int = 1) -> SensitivityTable:
    method = by_gradient(predict, NOISE, num_projections=num_projections)
    return rank_operations("gradient", method, task)


def scores(table: SensitivityTable) -> dict[str, float]:
    return {row.name: row.score for row in table.rows}


def caused(task: RankingTask[Tensor], name: str) -> float:
    """The error of the outputs that switching an operation really makes."""
    images = torch.cat(list(task.batches))
    with torch.no_grad():
        before = predict(switched(task, None), images)
        after = predict(switched(task, name), images)
        return float(NOISE.measure(after, before).mean())


def test_projections_average_to_the_error_that_switching_causes(task: RankingTask[Tensor]) -> None:
    """``pool`` reads its own output once: what it rounded then is rounded already."""
    estimated = scores(ranked(task, num_projections=150))
    for name in task.names:
        assert estimated[name] == pytest.approx(caused(task, name), rel=0.2), name


def test_inside_the_integer_network_too_where_no_rounding_follows(
    task: RankingTask[Tensor],
) -> None:
    task = dataclasses.replace(task, direction="all_but")
    estimated = scores(ranked(task, num_projections=150))
    for name in ("left", "right"):
        assert estimated[name] == pytest.approx(caused(task, name), rel=0.15), name


def test_one_projection_is_a_finite_difference_squared(
    task: RankingTask[Tensor], network: SmallNetwork
) -> None:
    """(dL/dz . e)^2, with L of the same signs moved along e by hand."""
    image = next(iter(task.batches))[:1]
    one = dataclasses.replace(task, batches=[image], num_batches=1)
    estimated = scores(ranked(one))
    exact = [output.detach() for output in predict(network, image)]
    rng = np.random.default_rng((0, 0, 0))
    signs = [
        torch.from_numpy(2.0 * rng.integers(0, 2, size=tuple(o.shape[1:]), dtype=np.int8) - 1)
        for o in exact
    ]
    whole = switched(dataclasses.replace(task, direction="all_but"), None)
    operation = whole.get_submodule("after_up")
    assert isinstance(operation, FakeQuantized)
    network.double()

    def moved_by(step: float) -> float:
        def move(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            error = operation.quantized(inputs[0].float()).double() - output
            return output + step * error

        handle = network.after_up.register_forward_hook(move)
        with torch.no_grad():
            found = predict(network, image.double())
        handle.remove()
        return sum(
            float((sign * output[0]).sum()) / float(before.double().norm()) / math.sqrt(2)
            for sign, output, before in zip(signs, found, exact, strict=True)
        )

    slope = (moved_by(1e-4) - moved_by(-1e-4)) / 2e-4
    assert estimated["after_up"] == pytest.approx(slope**2, rel=1e-2)


def test_it_ranks_as_the_measured_error_does(task: RankingTask[Tensor]) -> None:
    measured = scores(rank_operations("output", by_output(predict, NOISE), task))
    estimated = scores(ranked(task, num_projections=50))
    names = task.names
    correlation = spearman(
        np.array([measured[name] for name in names]), np.array([estimated[name] for name in names])
    )
    assert correlation > 0.9


def test_the_error_is_that_of_the_mean_over_images(task: RankingTask[Tensor]) -> None:
    method = by_gradient(predict, NOISE, num_projections=1)
    degradation = method(task).degradation
    columns = degradation.resampled(np.eye(12, dtype=np.int64))
    for row in ranked(task).rows:
        column = columns[:, task.names.index(row.name)]
        assert row.score == pytest.approx(column.mean())
        assert row.standard_error == pytest.approx(column.std(ddof=1) / math.sqrt(12))


def test_equal_seeds_give_equal_tables_whatever_the_batches(task: RankingTask[Tensor]) -> None:
    images = torch.cat(list(task.batches))
    regrouped = dataclasses.replace(
        task,
        batches=[images[first : first + 5] for first in range(0, 12, 5)],
        num_batches=3,
        batch_size=5,
    )
    other = dataclasses.replace(task, seed=1)
    assert ranked(task) == ranked(task) != ranked(other)
    for name, value in scores(ranked(regrouped)).items():
        assert value == pytest.approx(scores(ranked(task))[name], rel=1e-3)


def test_the_network_is_left_as_it_was(task: RankingTask[Tensor], network: SmallNetwork) -> None:
    ranked(task)
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_passes_are_two_forward_and_one_backward_a_projection(task: RankingTask[Tensor]) -> None:
    assert ranked(task, num_projections=1).passes == 3
    assert ranked(task, num_projections=4).passes == 6


def test_no_images_nan_and_stop(task: RankingTask[Tensor]) -> None:
    with pytest.raises(DataError, match="no image"):
        ranked(dataclasses.replace(task, batches=[], num_batches=0))
    damaged = [batch.clone() for batch in task.batches]
    damaged[1][2] = float("nan")
    with pytest.raises(NumericalError, match="image 6"):
        ranked(dataclasses.replace(task, batches=damaged))

    class Stops(Silent):
        def should_stop(self) -> bool:
            return True

    with pytest.raises(Interrupted):
        ranked(dataclasses.replace(task, progress=Stops()))
