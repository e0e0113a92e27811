"""Small rounding problems whose best solution can be found by trying all."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from quantpipe.quantization.weight_rounding.problem import RoundingProblem


def small_problem(seed: int, *, columns: int = 6) -> RoundingProblem:
    """Correlated inputs, as neighboring pixels are: there nearest rounding is far from best."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(3, columns, generator=generator) * 5
    common = torch.rand(400, 1, generator=generator)
    inputs = common + 0.3 * torch.rand(400, columns, generator=generator)
    step, bias = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.0, 1.0, -1.0])
    return RoundingProblem(
        weights=weights,
        inputs=inputs,
        outputs=inputs @ (weights * step[:, None]).T + bias,
        bias=bias,
        step=step,
        fixed=torch.zeros(3, columns, dtype=torch.bool),
        max_level=127,
    )


def error(problem: RoundingProblem, codes: Tensor) -> Tensor:
    """The mean squared error of each row, (..., R), for codes (..., R, K)."""
    given = codes * problem.step[:, None] @ problem.inputs.T + problem.bias[:, None]
    return (given - problem.outputs.T).square().mean(dim=-1)


def least_error(problem: RoundingProblem) -> Tensor:
    """The least error of each row over all ways to round every weight up or down."""
    low = problem.weights.floor()
    ways = torch.tensor(list(product((0.0, 1.0), repeat=low.shape[1])))
    return error(problem, low + ways[:, None, :]).amin(dim=0)
