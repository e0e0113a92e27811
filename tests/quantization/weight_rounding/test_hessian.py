from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.quantization.weight_rounding.rounding_cases import error, least_error, small_problem

from quantpipe.quantization.weight_rounding.hessian import hessian_rounding


@pytest.mark.parametrize("seed", range(8))
def test_it_is_near_the_best_of_all_roundings(seed: int) -> None:
    problem = small_problem(seed)
    codes = hessian_rounding(problem, damping=1e-3, free_bias=False)
    assert codes.equal(codes.round())
    assert error(problem, codes).sum() < 1.25 * least_error(problem).sum()


def test_it_beats_nearest_rounding_by_far_where_inputs_go_together() -> None:
    problems = [small_problem(seed) for seed in range(8)]
    found = [hessian_rounding(p, damping=1e-3, free_bias=False) for p in problems]
    ratios = [
        error(p, codes).sum() / error(p, p.nearest).sum()
        for p, codes in zip(problems, found, strict=True)
    ]
    assert sum(ratios) / len(ratios) < 0.5


def test_independent_inputs_of_equal_power_want_the_nearest_integers() -> None:
    problem = small_problem(1)
    problem = dataclasses.replace(
        problem,
        inputs=torch.eye(6),
        outputs=(problem.weights * problem.step[:, None]).T + problem.bias,
    )
    assert hessian_rounding(problem, damping=0.01, free_bias=False).equal(problem.nearest)


def test_great_damping_keeps_the_nearest_integers() -> None:
    problem = small_problem(2)
    assert not hessian_rounding(problem, damping=0.01, free_bias=False).equal(problem.nearest)
    assert hessian_rounding(problem, damping=1e6, free_bias=False).equal(problem.nearest)


def test_integers_make_up_for_what_the_inputs_lost() -> None:
    """Inputs that came out a tenth too small want weights a tenth larger."""
    problem = small_problem(3)
    shrunk = dataclasses.replace(problem, inputs=problem.inputs / 1.1)
    codes = hessian_rounding(shrunk, damping=1e-4, free_bias=False)
    assert error(shrunk, codes).sum() < 0.1 * error(shrunk, shrunk.nearest).sum()


def test_a_free_bias_takes_any_constant() -> None:
    problem = small_problem(4)
    moved = dataclasses.replace(problem, outputs=problem.outputs + torch.tensor([50.0, -30.0, 9.0]))
    free = hessian_rounding(moved, damping=0.01, free_bias=True)
    assert free.equal(hessian_rounding(problem, damping=0.01, free_bias=True))
    assert not hessian_rounding(moved, damping=0.01, free_bias=False).equal(free)


def test_fixed_integers_and_the_limit_hold() -> None:
    problem = small_problem(5)
    fixed = torch.zeros_like(problem.fixed)
    fixed[1] = True
    problem = dataclasses.replace(
        problem, weights=problem.weights * 40, fixed=fixed, outputs=problem.outputs * 60
    )
    codes = hessian_rounding(problem, damping=0.01, free_bias=False)
    assert codes[1].equal(problem.nearest[1])
    assert not codes[0].equal(problem.nearest[0])
    assert codes.abs().max() == 127


def test_where_nothing_was_read_the_nearest_integers_stay() -> None:
    problem = small_problem(6)
    problem = dataclasses.replace(problem, inputs=torch.zeros_like(problem.inputs))
    assert hessian_rounding(problem, damping=0.01, free_bias=False).equal(problem.nearest)


def test_more_columns_than_a_block_and_than_positions() -> None:
    problem = small_problem(7, columns=150)
    few = dataclasses.replace(problem, inputs=problem.inputs[:100], outputs=problem.outputs[:100])
    codes = hessian_rounding(few, damping=0.01, free_bias=False)
    assert error(problem, codes).sum() < 0.3 * error(problem, problem.nearest).sum()
    assert codes.equal(hessian_rounding(few, damping=0.01, free_bias=False))
