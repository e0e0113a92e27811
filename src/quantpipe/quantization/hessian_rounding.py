"""Rounding that keeps an operation's outputs, by least squares over what it reads.

For outputs Y (N, R) wanted of inputs X (N, K), integers Q (R, K) are sought that minimise the
squared distance of X Q' to Y: |(Q - T) L|^2 with L L' = H = X'X / N + damping, and T the real
weights that fit best. Columns are rounded one by one and each error is made up for by the columns
that are still free (OBQ, Frantar and Alistarh, arXiv 2208.11580, equation 5; all rows at once as in
GPTQ, arXiv 2210.17323, section 3.3); then single integers are changed for as long as that helps
(QuantEase, Behdin et al., arXiv 2309.01885, section 3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantpipe.quantization.rounding_problem import RoundingProblem

_BLOCK = 64
_MAX_SWEEPS = 50
# A change of an integer has to lower the error by more than float32 can get wrong.
_TIE = 1e-3


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
    target = problem.weights + torch.linalg.solve(hessian, slope.T).T.to(inputs.dtype)
    order = hessian.diagonal().argsort(descending=True, stable=True)
    hessian, target = hessian[order][:, order], target[:, order]
    nearest, fixed = problem.nearest[:, order], problem.fixed[:, order]
    codes = _feed_errors_forward(target, hessian, nearest, fixed, problem.max_level)
    codes = _change_while_it_helps(codes, target, hessian.to(codes.dtype), fixed, problem.max_level)
    return codes[:, order.argsort()]


def _feed_errors_forward(
    target: Tensor, hessian: Tensor, nearest: Tensor, fixed: Tensor, max_level: int
) -> Tensor:
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
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


def _change_while_it_helps(
    codes: Tensor, target: Tensor, hessian: Tensor, fixed: Tensor, max_level: int
) -> Tensor:
    """Returns integers of which no single change lowers the error."""
    slopes = (codes - target) @ hessian
    diagonal = hessian.diagonal()
    for _ in range(_MAX_SWEEPS):
        before = codes.clone()
        for start in range(0, codes.shape[1], _BLOCK):
            block = slice(start, min(start + _BLOCK, codes.shape[1]))
            old, slope = codes[:, block].clone(), slopes[:, block].clone()
            within = hessian[block, block]
            for k in range(old.shape[1]):
                at = start + k
                wanted = -slope[:, k] / diagonal[at]
                change = torch.where(wanted.abs() > 0.5 + _TIE, wanted.round(), 0.0)
                new = (codes[:, at] + change).clamp(-max_level, max_level)
                change = torch.where(fixed[:, at], 0.0, new - codes[:, at])
                codes[:, at] += change
                slope += change[:, None] * within[k]
            slopes += (codes[:, block] - old) @ hessian[block]
        if torch.equal(before, codes):
            break
    return codes
