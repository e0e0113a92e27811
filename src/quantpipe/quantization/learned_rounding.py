"""Rounding up or down, learned by gradient descent (AdaRound, arXiv 2004.10568)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantpipe.quantization.rounding_problem import RoundingProblem

# The rectified sigmoid reaches 0 and 1 (equation 23), and so has no vanishing gradient there.
_ZETA, _GAMMA = 1.1, -0.1
_BETA_FIRST, _BETA_LAST, _WARMUP = 20.0, 2.0, 0.2
_SMALLEST, _EDGE = 1e-20, 1e-4


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How long and how fast to learn.

    Attributes:
        iterations: Steps of Adam.
        batch_size: Positions in each.
        lr: Its step size.
        regularization: Weight of the term that drives every choice to up or down, its mean over the
            weights against the error as a share of that of nearest rounding.
    """

    iterations: int
    batch_size: int
    lr: float
    regularization: float


def learned_rounding(problem: RoundingProblem, *, descent: Descent) -> Tensor:
    """Returns integers (R, K), as floats: each weight rounded down or up.

    Minimises the squared distance of activation(outputs) in INT8 to the wanted one (equation 25,
    asymmetric), with each choice relaxed to h in [0, 1] and driven to an end of it.
    """
    limit = problem.max_level
    low = problem.weights.floor()
    share = ((problem.weights - low - _GAMMA) / (_ZETA - _GAMMA)).clamp(_EDGE, 1 - _EDGE)
    choice = torch.logit(share).requires_grad_(True)
    optimizer = torch.optim.Adam([choice], lr=descent.lr)
    error = _error_of(problem)
    unit = error(problem.nearest, slice(None)).clamp_min(_SMALLEST)
    generator = torch.Generator().manual_seed(problem.seed)
    with torch.enable_grad():
        for iteration in range(descent.iterations):
            picked = torch.randint(
                len(problem.inputs), (descent.batch_size,), generator=generator
            ).to(low.device)
            up = _rectified(choice)
            loss = error((low + up).clamp(-limit, limit), picked) / unit
            if (beta := _beta(iteration / descent.iterations)) is not None:
                undecided = (1 - (2 * up - 1).abs().pow(beta)).mean()
                loss = loss + descent.regularization * undecided
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    codes = (low + (choice.detach() >= 0)).clamp(-limit, limit)
    return torch.where(problem.fixed, problem.nearest, codes)


def _error_of(problem: RoundingProblem) -> Callable[[Tensor, Tensor | slice], Tensor]:
    wanted, step = problem.activation(problem.outputs), problem.step[:, None]

    def error(codes: Tensor, picked: Tensor | slice) -> Tensor:
        given = problem.inputs[picked] @ (codes * step).T + problem.bias
        return (problem.activation(given) - wanted[picked]).square().sum(dim=1).mean()

    return error


def _rectified(choice: Tensor) -> Tensor:
    return (choice.sigmoid() * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)


def _beta(share: float) -> float | None:
    """Returns the exponent of the regulariser; None while the weights still move freely."""
    if share < _WARMUP:
        return None
    left = (share - _WARMUP) / (1 - _WARMUP)
    return _BETA_LAST + 0.5 * (_BETA_FIRST - _BETA_LAST) * (1 + math.cos(left * math.pi))
