from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from quantpipe.errors import Interrupted, NumericalError
from quantpipe.progress import Progress, Silent
from quantpipe.quantization.fake_quantize import quantize
from quantpipe.quantization.operations import find_operations
from quantpipe.quantization.precision_plan import PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.sensitivity import Score, score_sensitivity
from quantpipe.quantization.sensitivity_table import Accuracy, SensitivityTable

if TYPE_CHECKING:
    from tests.quantization.conftest import SmallNetwork


class Scorer:
    """Scores by closeness to the float outputs, and counts how often it was asked."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.images = images
        self.calls = 0
        with torch.no_grad():
            self.exact = network(images)

    def __call__(self, network: nn.Module) -> Accuracy:
        self.calls += 1
        with torch.no_grad():
            error = float((network(self.images) - self.exact).square().mean())
        return Accuracy(map50=1.0 - error, map=0.5 - error)


class StopsAfter(Silent):
    def __init__(self, count: int) -> None:
        self.left = count

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.fixture
def rank(network: SmallNetwork, scales: ScaleCache, batches: list[Tensor], tmp_path: Path) -> Any:
    operations = find_operations(network, batches[0][:1])

    def run(
        scorer: Score,
        folder: str = "progress",
        progress: Progress | None = None,
        scales: ScaleCache = scales,
    ) -> SensitivityTable:
        return score_sensitivity(
            network,
            scales,
            operations,
            scorer,
            progress=progress or Silent(),
            progress_folder=tmp_path / folder,
        )

    return run


@pytest.fixture
def scorer(network: SmallNetwork, batches: list[Tensor]) -> Scorer:
    return Scorer(network, batches[0])


def test_each_row_is_the_network_with_that_operation_alone(
    rank: Any, scorer: Scorer, network: SmallNetwork, scales: ScaleCache
) -> None:
    table = rank(scorer)
    assert scorer.calls == 9
    assert table.baseline == 0.5
    assert table.weights_digest == scales.weights_digest
    for row in table.rows:
        plan = PrecisionPlan(operations={row.name: "int8"}, reason="")
        expected = scorer(quantize(network, scales, plan))
        assert (row.map50, row.map, row.score) == (*expected, expected.map)
        assert row.drop == 0.5 - expected.map > 0
    assert [row.map for row in table.rows] == sorted((r.map for r in table.rows), reverse=True)


@pytest.mark.parametrize("stop", range(1, 9))
def test_a_stopped_run_goes_on_where_it_was(
    rank: Any, scorer: Scorer, network: SmallNetwork, batches: list[Tensor], stop: int
) -> None:
    expected = rank(scorer, folder="unbroken")
    first, second = Scorer(network, batches[0]), Scorer(network, batches[0])
    with pytest.raises(Interrupted):
        rank(first, progress=StopsAfter(stop))
    assert rank(second) == expected
    assert (first.calls, second.calls) == (stop, 9 - stop)


def test_a_run_that_dies_while_scoring_keeps_the_rest(
    rank: Any, scorer: Scorer, network: SmallNetwork, batches: list[Tensor]
) -> None:
    def dies(quantized: nn.Module) -> Accuracy:
        if scorer.calls == 4:
            raise MemoryError
        return scorer(quantized)

    with pytest.raises(MemoryError):
        rank(dies)
    second = Scorer(network, batches[0])
    rank(second)
    assert second.calls == 5


def test_damaged_and_foreign_records_are_scored_again(
    rank: Any, scorer: Scorer, scales: ScaleCache, tmp_path: Path
) -> None:
    expected = rank(scorer)
    folder = tmp_path / "progress"
    (folder / "down.json").write_text("{")
    document = json.loads((folder / "left.json").read_text())
    document["scored"]["map"] = 0.9
    (folder / "left.json").write_text(json.dumps(document))
    (folder / "right.json").write_bytes((folder / "up.json").read_bytes())
    before = scorer.calls
    assert rank(scorer) == expected
    assert scorer.calls - before == 3
    other = dataclasses.replace(scales, weights_digest="other")
    assert rank(scorer, scales=other).weights_digest == "other"
    assert scorer.calls - before == 3 + 9


def test_nan_never_becomes_a_score(rank: Any) -> None:
    with pytest.raises(NumericalError, match=r"\(float\)"):
        rank(lambda network: (0.5, float("nan")))
