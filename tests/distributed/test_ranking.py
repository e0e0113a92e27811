"""Two ranks over gloo share a ranking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.calibrated_scales import calibrated_scales
from tests.distributed.ranking_along import Job, StopsAfter, Tiny, follow, lead

from quantpipe.distributed.ranks import run_together
from quantpipe.errors import Interrupted, NumericalError
from quantpipe.process_group import SingleProcess
from quantpipe.progress import Silent
from quantpipe.quantization.operations import find_operations
from quantpipe.quantization.sensitivity.table import (
    Direction,
    SensitivityMethod,
    SensitivityTable,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As each of two ranks has on two cores: how many threads add up decides the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """Five batches of two images but the last, which has one."""
    generator = torch.Generator().manual_seed(3)
    network = Tiny().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    batches = list(torch.rand(9, 3, 16, 16, generator=generator).split(2))  # type: ignore[no-untyped-call]
    return {
        "network": network,
        "scales": calibrated_scales(network, batches),
        "operations": find_operations(network, batches[0][:1]),
        "direction": "only",
        "batches": batches,
        "num_batches": len(batches),
        "batch_size": 2,
        "seed": 0,
        "progress_folder": tmp_path / "progress",
    }


def together(job: Job, progress: Silent | None = None) -> SensitivityTable:
    return run_together(
        lambda processes: lead(processes, job, progress),
        follow,
        job,
        size=2,
        device="cpu",
        timeout_seconds=60,
    )


@pytest.mark.parametrize(
    ("method", "direction"),
    [("loss", "only"), ("output", "all_but"), ("gradient", "only"), ("gradient", "all_but")],
)
def test_two_ranks_find_what_one_finds(
    given: dict[str, Any], tmp_path: Path, method: SensitivityMethod, direction: Direction
) -> None:
    given["direction"] = direction
    alone = lead(SingleProcess(), Job(method, given | {"progress_folder": tmp_path / "alone"}))
    assert together(Job(method, given)) == alone
    assert alone.num_images == 9


def test_two_ranks_go_on_where_they_were_stopped(given: dict[str, Any], tmp_path: Path) -> None:
    alone = lead(SingleProcess(), Job("loss", given | {"progress_folder": tmp_path / "alone"}))
    with pytest.raises(Interrupted):
        together(Job("loss", given), StopsAfter(3))
    assert len(list((tmp_path / "progress").iterdir())) >= 3
    assert together(Job("loss", given)) == alone


def test_what_is_no_number_on_either_rank_is_named(given: dict[str, Any]) -> None:
    given["batches"][1][1] = float("nan")
    with pytest.raises(NumericalError, match="image 3 gives a NaN"):
        together(Job("gradient", given))
