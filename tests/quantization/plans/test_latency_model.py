from __future__ import annotations

import pytest

from quantpipe.quantization.plans.latency_model import (
    EngineTimes,
    MixedEngine,
    borders,
    fit_latency,
)

READERS = {"a": frozenset({"b"}), "b": frozenset({"b", "c"}), "c": frozenset()}
SIZES = {"a": 100, "b": 300, "c": 600}


def test_the_extremes_are_predicted_as_they_were_timed() -> None:
    """Counting slows layers down: they are scaled to the whole."""
    int8 = EngineTimes(whole=1.0, operations={"a": 0.5, "b": 0.6, "c": 0.5}, elsewhere=0.4)
    floats = EngineTimes(whole=3.0, operations={"a": 1.0, "b": 1.2, "c": 1.8}, elsewhere=0.5)
    model = fit_latency(int8, floats, [], sizes=SIZES, readers=READERS)
    assert model.predicted(()) == pytest.approx(1.0)
    assert model.predicted(SIZES) == pytest.approx(3.0)
    assert model.int8_ms["a"] == pytest.approx(0.25)


def test_the_price_of_a_border_is_what_mixed_engines_take_more() -> None:
    int8 = EngineTimes(whole=1.0, operations={"a": 0.3, "b": 0.3, "c": 0.3}, elsewhere=0.1)
    floats = EngineTimes(whole=1.9, operations={"a": 0.6, "b": 0.6, "c": 0.6}, elsewhere=0.1)
    # A border costs 0.001 an element: a and b are read across one in both.
    mixed = [
        MixedEngine(float_operations=frozenset({"a", "c"}), whole=1.0 + 2 * 0.3 + 0.4),
        MixedEngine(float_operations=frozenset({"b"}), whole=1.0 + 0.3 + 0.4),
    ]
    model = fit_latency(int8, floats, mixed, sizes=SIZES, readers=READERS)
    assert model.border_ms == pytest.approx({"a": 0.1, "b": 0.3, "c": 0.6})
    assert model.predicted({"b"}) == pytest.approx(1.7)


def test_a_border_costs_nothing_rather_than_less() -> None:
    int8 = EngineTimes(whole=1.0, operations={"a": 1.0}, elsewhere=0.0)
    floats = EngineTimes(whole=2.0, operations={"a": 2.0}, elsewhere=0.0)
    mixed = [MixedEngine(float_operations=frozenset({"a", "c"}), whole=0.5)]
    model = fit_latency(int8, floats, mixed, sizes=SIZES, readers=READERS)
    assert set(model.border_ms.values()) == {0.0}


@pytest.mark.parametrize(
    ("kept", "crossing"),
    [((), []), ("abc", []), ("a", ["a"]), ("b", ["a", "b"]), ("ab", ["b"]), ("ac", ["a", "b"])],
)
def test_a_border_is_a_result_read_in_another_precision(kept: str, crossing: list[str]) -> None:
    assert borders(READERS, set(kept)) == crossing
