"""Rounding that keeps an operation's outputs, by least squares over what it reads.

For outputs Y (N, R) wanted of inputs X (N, K), integers Q (R, K) are sought that minimize the
squared distance of X Q' to Y: |(Q - T) L|^2 with L L' = H = X'X / N + damping, and T the real
weights that fit best. Columns are rounded one by one and each error is made up for by the columns
that are still free (OBQ, Frantar and Alistarh, arXiv 2208.11580, equation 5; all rows at once as in
GPTQ, arXiv 2210.17323, section 3.3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantpipe.quantization.weight_rounding.problem import RoundingProblem

_BLOCK = 64


def hessian_rounding(problem: RoundingProblem, *, damping: float, free_bias: bool) -> Tensor:
    """Returns integers (R, K), as floats.

    Args:
        problem: What to solve.
        damping: Added to H's diagonal, as a share of its mean: how dear it is to leave the weights.
        free_bias: Whether the bias will be set to fit: then mean values do not count.
    """
    inputs = problem.inputs
    missing = (problem.outputs - problem.bias) / problem.step - inputs @ problem.weights.T
    if free_bias:
        inputs, missing = inputs - inputs.mean(dim=0), missing - missing.mean(dim=0)
    hessian = (inputs.T @ inputs / len(inputs)).double()
    added = damping * float(hessian.diagonal().mean())
    if added <= 0.0:
        return problem.nearest  # nothing was read
    hessian.diagonal().add_(added)
    slope = (missing.T @ inputs / len(inputs)).double()
    factor = torch.linalg.cholesky(hessian)
    target = problem.weights + torch.cholesky_solve(slope.T, factor).T.to(inputs.dtype)
    order = hessian.diagonal().argsort(descending=True, stable=True)
    inverse = torch.cholesky_inverse(factor)[order][:, order]
    nearest, fixed = problem.nearest[:, order], problem.fixed[:, order]
    codes = _feed_errors_forward(target[:, order], inverse, nearest, fixed, problem.max_level)
    return codes[:, order.argsort()]


def _feed_errors_forward(
    target: Tensor, inverse: Tensor, nearest: Tensor, fixed: Tensor, max_level: int
) -> Tensor:
    factor = torch.linalg.cholesky(inverse, upper=True).to(target.dtype)
    left, codes = target.clone(), torch.empty_like(target)
    for start in range(0, target.shape[1], _BLOCK):
        end = min(start + _BLOCK, target.shape[1])
        errors = torch.empty_like(target[:, start:end])
        for k in range(start, end):
            chosen = left[:, k].round().clamp(-max_level, max_level)
            codes[:, k] = torch.where(fixed[:, k], nearest[:, k], chosen)
            error = (left[:, k] - codes[:, k]) / factor[k, k]
            left[:, k:end] -= error[:, None] * factor[k, k:end]
            errors[:, k - start] = error
        left[:, end:] -= errors @ factor[start:end, end:]
    return codes
