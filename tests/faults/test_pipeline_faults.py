from __future__ import annotations

import pytest

from faults import pipeline

pytestmark = pytest.mark.slow


def test_a_run_that_is_disturbed_in_many_stages_ends_as_an_unbroken_one() -> None:
    tally = pipeline.run(seed=0, share=8 / pipeline.FULL)
    assert not tally.failures
    assert tally.survived == tally.tried == 8
