"""Two ranks over gloo on this machine."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distributed.along import (
    Job,
    Lessons,
    add_to_copy,
    add_up,
    follow,
    lead,
    learn,
    learn_along,
)
from tests.training.conftest import RECIPE
from tests.training.quantized import RULES, calibrated, deployed_detector, student_of

from quantpipe.distributed.ranks import run_together
from quantpipe.errors import DataError, Interrupted, MachineError
from quantpipe.process_group import SingleProcess
from quantpipe.progress import Silent
from quantpipe.training.loop import TrainResult

pytestmark = pytest.mark.slow


def together(job: Job, *, timeout: float = 60, progress: Any = None) -> TrainResult:
    return run_together(
        lambda processes: lead(processes, job, progress),
        follow,
        job,
        size=2,
        device="cpu",
        timeout_seconds=timeout,
    )


class Stopping(Silent):
    """Asks to stop after the fourth step."""

    calls = 0

    def should_stop(self) -> bool:
        self.calls += 1
        return self.calls == 4


def test_two_ranks_train_as_one_does_on_the_same_batches(tmp_path: Path) -> None:
    """Batch statistics, the loss and its normalizer are those of the whole batch."""
    alone = lead(SingleProcess(), Job(RECIPE, tmp_path / "one"))
    two = together(Job(RECIPE, tmp_path / "two"))
    assert len(two.history) == 3
    for one, other in zip(alone.history, two.history, strict=True):
        for part in ("loss", "cls", "iou"):
            assert other[part] == pytest.approx(one[part], rel=1e-4)
        assert other["map"] == pytest.approx(one["map"], rel=1e-4)
    for name, tensor in alone.weights.items():
        torch.testing.assert_close(two.weights[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("few_files")
def test_tensors_need_no_open_files() -> None:
    """Nor shared memory: torch would open one of /dev/shm for each of them."""
    tensors = [torch.full((3,), float(number)) for number in range(400)]
    total = run_together(
        lambda processes: add_up(processes, tensors),
        add_up,
        tensors,
        size=2,
        device="cpu",
        timeout_seconds=60,
    )
    assert total == 2 * 3 * sum(range(400))


@pytest.fixture
def few_files() -> Iterator[None]:
    """At most 256 open at once."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_two_ranks_resume_where_they_were_stopped(tmp_path: Path) -> None:
    unbroken = together(Job(RECIPE, tmp_path / "a"))
    with pytest.raises(Interrupted):
        together(Job(RECIPE, tmp_path / "b"), progress=Stopping())
    resumed = together(Job(RECIPE, tmp_path / "b"))
    for name, tensor in unbroken.weights.items():
        torch.testing.assert_close(resumed.weights[name], tensor, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["learned", "ema"])
def test_two_ranks_train_the_ranges_as_one_does_and_resume(kind: str, tmp_path: Path) -> None:
    """Gradients of steps are summed; averages follow the largest value of both ranks."""
    deployed = deployed_detector()
    scales = calibrated(deployed)

    def lessons(folder: str) -> Lessons:
        student = student_of(deployed, scales, RULES[kind])
        return Lessons(student, deployed, RECIPE, tmp_path / folder)

    def both(folder: str, progress: Any = None) -> TrainResult:
        job = lessons(folder)
        return run_together(
            lambda processes: learn(processes, job, progress),
            learn_along,
            job,
            size=2,
            device="cpu",
            timeout_seconds=60,
        )

    alone = learn(SingleProcess(), lessons("one"))
    two = both("two")
    assert alone.weights.keys() == two.weights.keys()
    for name, tensor in alone.weights.items():
        torch.testing.assert_close(two.weights[name], tensor, rtol=2e-3, atol=1e-5)
    with pytest.raises(Interrupted):
        both("stopped", Stopping())
    resumed = both("stopped")
    for name, tensor in two.weights.items():
        torch.testing.assert_close(resumed.weights[name], tensor, rtol=1e-4, atol=1e-6)


def test_other_ranks_work_on_copies(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.zeros(4))
    run_together(
        lambda processes: processes.all_reduce_sum(torch.zeros(1)),
        add_to_copy,
        weight,
        size=2,
        device="cpu",
        timeout_seconds=60,
    )
    assert weight.tolist() == [0, 0, 0, 0]


def test_only_rank_0_writes(tmp_path: Path) -> None:
    together(Job(RECIPE, tmp_path))
    assert sorted(path.name[:14] for path in tmp_path.iterdir()) == [
        "step-000000008",
        "step-000000009",
    ]


@pytest.mark.parametrize(
    ("fate", "timeout", "message"),
    [
        ("killed", 60, r"rank 1 of 2 \(process \d+\) was killed by signal 9"),
        ("stopped", 3, r"rank 1 of 2 \(process \d+\) has not answered for 3 s"),
    ],
)
def test_a_rank_that_is_lost_ends_the_others_and_is_named(
    fate: str, timeout: float, message: str, tmp_path: Path
) -> None:
    start = time.monotonic()
    with pytest.raises(MachineError, match=message) as caught:
        together(Job(RECIPE, tmp_path, fate), timeout=timeout)
    assert caught.value.exit_code == 5
    assert time.monotonic() - start < 30
    # What was saved before is good to go on from.
    resumed = together(Job(RECIPE, tmp_path))
    alone = lead(SingleProcess(), Job(RECIPE, tmp_path / "one"))
    for name, tensor in alone.weights.items():
        torch.testing.assert_close(resumed.weights[name], tensor, rtol=1e-3, atol=1e-5)


def test_what_a_rank_raises_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an image is damaged") as caught:
        together(Job(RECIPE, tmp_path, "fails"))
    assert str(caught.value.path) == "x.jpg"


def test_what_rank_0_raises_ends_the_others(tmp_path: Path) -> None:
    def fail(processes: Any) -> None:
        raise DataError("rank 0 has seen enough")

    start = time.monotonic()
    run: Callable[[], Any] = partial(
        run_together, fail, follow, Job(RECIPE, tmp_path), size=2, device="cpu", timeout_seconds=60
    )
    with pytest.raises(DataError, match="seen enough"):
        run()
    assert time.monotonic() - start < 30
