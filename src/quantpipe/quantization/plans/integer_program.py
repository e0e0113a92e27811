"""The best plan under a budget, exactly: an integer program over one switch for each operation.

With x = 1 for an operation in float, the degradation of a plan is the sum of h (1 - x), its latency
the sum of both precisions' times, and b y + b z for each operation whose result crosses a border: y
is at least x - x' (computed in float, read in INT8) and z at least x' - x (the other way round) for
every reader x'. So a border is paid once, however many read the result. y and z need no
integers: at the optimum they are the largest of those differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from quantpipe.quantization.plans.latency_model import LatencyModel

# Decides between plans that are equal in what is minimized: the better one in the other respect.
_TIE = 1e-6
# Of a budget, so that a plan that meets it exactly is not lost to rounding.
_SLACK = 1e-9
_INFEASIBLE = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class _Program:
    """Variables x, y and z of every operation, in this order."""

    names: tuple[str, ...]
    degradation: NDArray[np.float64]
    latency: NDArray[np.float64]
    constant_ms: float
    crossings: LinearConstraint


def least_degradation(
    model: LatencyModel, degradation: Mapping[str, float], *, max_ms: float
) -> frozenset[str] | None:
    """Returns the float operations of the plan with the least degradation within a latency.

    Args:
        model: Of the latency.
        degradation: What INT8 costs in each operation, not negative.
        max_ms: Predicted milliseconds.

    Returns:
        None where no plan is that fast.
    """
    program = _program(model, degradation)
    row = LinearConstraint(program.latency, ub=_loosened(max_ms) - program.constant_ms)
    tie = _TIE * (sum(degradation.values()) or 1.0) / (float(np.abs(program.latency).sum()) or 1.0)
    return _solved(program, tie * program.latency - program.degradation, row)


def least_latency(
    model: LatencyModel, degradation: Mapping[str, float], *, max_degradation: float
) -> frozenset[str]:
    """Returns the float operations of the fastest plan of at most ``max_degradation`` in all."""
    program = _program(model, degradation)
    total = sum(degradation.values())
    row = LinearConstraint(-program.degradation, ub=_loosened(max(max_degradation, 0.0)) - total)
    tie = _TIE * (float(np.abs(program.latency).sum()) or 1.0) / (total or 1.0)
    found = _solved(program, program.latency - tie * program.degradation, row)
    assert found is not None, "float throughout degrades nothing"
    return found


def fastest(model: LatencyModel) -> frozenset[str]:
    """Returns the float operations of the fastest plan."""
    degradation = dict.fromkeys(model.int8_ms, 1.0)
    return least_latency(model, degradation, max_degradation=float(len(degradation)))


def _loosened(limit: float) -> float:
    return limit + _SLACK * (1.0 + abs(limit))


def _program(model: LatencyModel, degradation: Mapping[str, float]) -> _Program:
    names = tuple(model.int8_ms)
    count, place = len(names), {name: index for index, name in enumerate(names)}
    int8 = np.array([model.int8_ms[name] for name in names])
    border = np.array([model.border_ms[name] for name in names])
    slower = np.array([model.float_ms[name] for name in names]) - int8
    rows = []
    for name in names:
        for reader in sorted(model.readers.get(name, frozenset()) - {name}):
            row = np.zeros((2, 3 * count))
            row[:, place[name]], row[:, place[reader]] = (-1, 1), (1, -1)
            row[0, count + place[name]] = row[1, 2 * count + place[name]] = 1
            rows.append(row)
    nothing = np.zeros(count)
    return _Program(
        names=names,
        degradation=np.concatenate([[degradation[name] for name in names], nothing, nothing]),
        latency=np.concatenate([slower, border, border]),
        constant_ms=model.base_ms + float(int8.sum()),
        crossings=LinearConstraint(np.concatenate(rows or [np.zeros((1, 3 * count))]), lb=0.0),
    )


def _solved(
    program: _Program, costs: NDArray[np.float64], budget: LinearConstraint
) -> frozenset[str] | None:
    count = len(program.names)
    result = milp(
        costs,
        integrality=np.repeat([1, 0, 0], count),
        bounds=Bounds(0.0, 1.0),
        constraints=[program.crossings, budget],
        options={"mip_rel_gap": 0.0},
    )
    if result.status == _INFEASIBLE:
        return None
    assert result.success, result.message
    return frozenset(
        name for name, x in zip(program.names, result.x[:count], strict=True) if x > 0.5
    )
