"""What a sweeper is told follows from the setting, and the best jobs from what was measured."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from quantpipe.errors import ConfigurationError
from quantpipe.report.objective import MEASURES, Objective, best, read_objectives
from quantpipe.report.summary import Summary

VARIANTS = ("fp32", "half", "ptq")


def objectives(*texts: str) -> tuple[Objective, ...]:
    return read_objectives(texts, VARIANTS)


def test_one_several_or_none_are_read() -> None:
    assert read_objectives(None, VARIANTS) == ()
    (one,) = read_objectives("map of ptq", VARIANTS)
    assert (one.measure, one.variant, one.direction) == ("map", "ptq", "maximize")
    assert [str(o) for o in objectives("map of ptq", "latency of half")] == [
        "map of ptq",
        "latency of half",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ptq", "objective: 'ptq' is no objective; write <measure> of <variant>"),
        ("mapp of ptq", "nothing called 'mapp' is measured; did you mean 'map'?"),
        ("map of pta", "no variant 'pta' is compared; did you mean 'ptq'?"),
    ],
)
def test_what_is_not_known_is_one_helpful_line(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_objectives(text, VARIANTS)
    assert told in str(caught.value)


def test_the_same_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="names one twice"):
        objectives("map of ptq", " map  of ptq".strip())


def test_values_are_those_of_the_summary(summary: Summary) -> None:
    """The made-up run: half and qat have the published figures of a Tesla T4."""
    found = {
        measure: Objective(measure=measure, variant="qat").value(summary.variants)
        for measure in MEASURES
    }
    assert found == {
        "map": 0.433,
        "map50": 0.601,
        "agreement": 0.971,
        "drop": pytest.approx(-0.002),
        "latency": 1.68,
        "fps": 596.0,
        "size": 17.9,
    }


def test_what_was_not_measured_has_no_value(summary: Summary) -> None:
    assert Objective(measure="fps", variant="fp32").value(summary.variants) is None
    assert Objective(measure="latency", variant="fp32").value(summary.variants) is None
    skipped = [replace(v, map=None) for v in summary.variants]
    assert Objective(measure="map", variant="qat").value(skipped) is None
    assert Objective(measure="map", variant="none").value(summary.variants) is None


def test_the_best_of_one_objective_are_all_that_reach_it() -> None:
    values = {"0": [0.4], "1": [0.5], "2": [0.5], "3": None}
    assert best(values, objectives("map of ptq")) == ["1", "2"]
    assert best(values, objectives("latency of ptq")) == ["0"]
    assert best({"0": None}, objectives("map of ptq")) == []
    assert best({"0": None}, ()) == []


def test_the_best_of_several_are_the_pareto_front() -> None:
    """By trying every pair, as the definition has it."""
    rng = random.Random(0)
    values = {str(n): [rng.randrange(8), rng.randrange(8)] for n in range(40)}
    beaten = {
        loser
        for (winner, (a, b)), (loser, (c, d)) in itertools.permutations(values.items(), 2)
        if a >= c and b <= d and (a, b) != (c, d)
    }
    front = best(values, objectives("map of ptq", "latency of ptq"))
    assert set(front) == set(values) - beaten
    assert 1 < len(front) < 40
