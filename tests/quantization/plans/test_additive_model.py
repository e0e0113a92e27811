from __future__ import annotations

import pytest

from quantpipe.quantization.plans.additive_model import predicted_drops, shares_of_degradation
from quantpipe.quantization.sensitivity.table import (
    SensitivityMethod,
    SensitivityRow,
    SensitivityTable,
)


def table(method: SensitivityMethod, *rows: SensitivityRow) -> SensitivityTable:
    return SensitivityTable(
        method=method, rows=rows, baseline=None, weights_digest=None, direction="only"
    )


def test_scores_are_shares_of_their_sum() -> None:
    rows = (SensitivityRow(name="a", score=1.0), SensitivityRow(name="b", score=3.0))
    assert shares_of_degradation(table("gradient", *rows)) == {"a": 0.25, "b": 0.75}


def test_a_gain_by_map_counts_as_no_degradation() -> None:
    rows = (
        SensitivityRow(name="a", score=0.51, drop=-0.01),
        SensitivityRow(name="b", score=0.49, drop=0.01),
        SensitivityRow(name="c", score=0.47, drop=0.03),
    )
    assert shares_of_degradation(table("map", *rows)) == pytest.approx(
        {"a": 0.0, "b": 0.25, "c": 0.75}
    )


def test_a_published_text_loses_against_its_best_operation() -> None:
    rows = (SensitivityRow(name="a", score=0.5), SensitivityRow(name="b", score=0.4))
    assert shares_of_degradation(table("map", *rows)) == {"a": 0.0, "b": 1.0}


def test_without_any_degradation_all_share_alike() -> None:
    rows = (SensitivityRow(name="a", score=0.0), SensitivityRow(name="b", score=0.0))
    assert shares_of_degradation(table("output", *rows)) == {"a": 0.5, "b": 0.5}


def test_predicted_drops_sum_to_the_measured_one() -> None:
    drops = predicted_drops({"a": 0.25, "b": 0.75}, 0.02)
    assert sum(drops.values()) == pytest.approx(0.02)
    assert predicted_drops({"a": 1.0}, -0.01) == {"a": 0.0}
