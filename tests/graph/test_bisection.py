from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from tests.exported_network import Exported

from quantpipe.graph.bisection import first_diverged, graph_until

#   a - b - c ---- e - f        (c and d meet in e; g is a second end)
#        \- d ---/
#        \- g
PRODUCERS = {
    "a": frozenset[str](),
    "b": frozenset({"a"}),
    "c": frozenset({"b"}),
    "d": frozenset({"b"}),
    "e": frozenset({"c", "d"}),
    "g": frozenset({"b"}),
    "f": frozenset({"e"}),
}


def downstream(*faults: str) -> Callable[[str], bool]:
    """What parts where these operations are wrong: themselves, and whatever they feed."""

    def diverged(name: str) -> bool:
        return name in faults or any(diverged(producer) for producer in PRODUCERS[name])

    return diverged


@pytest.mark.parametrize("fault", PRODUCERS)
def test_the_faulty_operation_is_found_wherever_it_is(fault: str) -> None:
    assert first_diverged(PRODUCERS, downstream(fault)) == fault


@pytest.mark.parametrize("faults", list(itertools.combinations(PRODUCERS, 2)))
def test_of_two_one_is_found_whose_producers_agree(faults: tuple[str, str]) -> None:
    diverged = downstream(*faults)
    found = first_diverged(PRODUCERS, diverged)
    assert found in faults
    assert not any(diverged(producer) for producer in PRODUCERS[found])


def test_nothing_is_found_where_nothing_parts() -> None:
    assert first_diverged(PRODUCERS, lambda name: False) is None


def test_a_long_chain_takes_few_looks() -> None:
    chain = {str(n): frozenset({str(n - 1)} if n else ()) for n in range(64)}
    looks: list[str] = []

    def diverged(name: str) -> bool:
        looks.append(name)
        return int(name) >= 37

    assert first_diverged(chain, diverged) == "37"
    assert len(looks) <= 8
    assert len(looks) == len(set(looks))


def evaluated(model: onnx.ModelProto, output: str, images: np.ndarray) -> np.ndarray:
    results: Any = onnx.reference.ReferenceEvaluator(model).run([output], {"images": images})
    values: np.ndarray = results[0]
    return values


def test_a_graph_ends_at_the_node(exported: Exported) -> None:
    float_model = exported.graph
    names = [node.name for node in float_model.graph.node if node.op_type == "Conv"]
    images = np.random.default_rng(0).random((2, 3, 64, 64), dtype=np.float32)
    whole = onnx.ModelProto()
    whole.CopyFrom(float_model)
    for name in (names[0], names[5]):
        until = graph_until(float_model, name)
        onnx.checker.check_model(until, full_check=True)
        (output,) = until.graph.output
        assert until.graph.node[-1].name == name
        whole.graph.output.append(output)
        np.testing.assert_array_equal(
            evaluated(until, output.name, images), evaluated(whole, output.name, images)
        )
