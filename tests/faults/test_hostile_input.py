"""A seeded part of every campaign of hostile input, and proof that the judges can fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faults.annotations import run as run_annotations
from faults.cases import Case, Place, Prepared, run_cases
from faults.tally import Campaign, Tally

from faults import artifacts, configs, images, numbers, ranks
from quantpipe.errors import DataError

# Pillow warns of what our reader then refuses; the command silences it.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning:PIL")]

CAMPAIGNS: dict[str, tuple[Campaign, float]] = {
    "artifacts": (artifacts.run, 0.2),
    "annotations": (run_annotations, 0.5),
    "configs": (configs.run, 0.03),
    "images": (images.run, 0.5),
    "numbers": (numbers.run, 0.15),
    "ranks": (ranks.run, 0.25),
}


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_hostile_input_is_refused_as_promised(name: str) -> None:
    campaign, share = CAMPAIGNS[name]
    tally = campaign(0, share)
    assert not tally.failures
    assert tally.tried > 0
    assert tally.code_run == 0


def judged(call: Prepared, **more: object) -> Tally:
    case = Case(row=1, name="it", prepare=lambda at: call, error=DataError, **more)  # type: ignore[arg-type]
    return run_cases("proof", [case], 0, 1.0)


def fail_with(error: Exception) -> Prepared:
    def call() -> object:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ValueError("x"), "raised ValueError"),
        (DataError("a\\b" * 2000), "characters"),
        (DataError("something else"), "does not say 'the path'"),
    ],
)
def test_another_error_is_a_failure(error: Exception, problem: str) -> None:
    tally = judged(fail_with(error), says=("the path",))
    assert (tally.tried, tally.survived) == (1, 0)
    assert problem in tally.failures[0]


def test_what_is_taken_is_a_wrong_result() -> None:
    tally = judged(lambda: 3)
    assert (tally.wrong_results, tally.survived) == (1, 0)


@pytest.mark.parametrize(
    "act",
    [
        lambda at: at.outside.secret.read_bytes(),
        lambda at: (at.root / ".." / "outside" / "secret").read_bytes(),
        lambda at: at.outside.canary.touch(),
        lambda at: os.system("true"),
    ],
)
def test_whatever_breaks_out_is_counted(act: object) -> None:
    def prepare(at: Place) -> Prepared:
        assert callable(act)
        return lambda: act(at)

    case = Case(row=1, name="it", prepare=prepare, error=None)
    assert run_cases("proof", [case], 0, 1.0).code_run == 1


def test_what_takes_too_long_or_too_much_ends(tmp_path: Path) -> None:
    tally = judged(lambda: bytearray(4 << 30))
    assert "MemoryError" in tally.failures[0]
