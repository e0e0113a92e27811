from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quantpipe.quantization.detection_loss import confident_projection


def predictions() -> tuple[Tensor, Tensor]:
    """One image, two cells: an object of 4 x 8 cells, and background."""
    logits = torch.tensor([[[2.0, -3.0], [-9.0, -8.0]]])
    distances = torch.tensor([[[1.0, 2.0, 3.0, 6.0], [0.1, 0.1, 0.1, 0.1]]])
    return logits, distances


def squared_change(d_logits: Tensor, d_distances: Tensor, draws: int = 4000) -> float:
    logits, distances = predictions()
    total = 0.0
    for batch in range(draws):
        loss = confident_projection(5)
        changed = loss((logits, distances), batch)
        logits_in, distances_in = (
            logits.clone().requires_grad_(),
            distances.clone().requires_grad_(),
        )
        loss((logits_in, distances_in), batch).backward()  # type: ignore[no-untyped-call]
        assert changed.isfinite()
        assert logits_in.grad is not None
        assert distances_in.grad is not None
        change = (logits_in.grad * d_logits).sum() + (distances_in.grad * d_distances).sum()
        total += float(change) ** 2
    return total / draws


def test_the_expected_square_weighs_confident_cells_and_relative_sides() -> None:
    d_logits = torch.tensor([[[0.3, 0.1], [1.0, 1.0]]])
    d_distances = torch.tensor([[[0.1, 0.2, 0.0, 0.3], [0.5, 0.5, 0.5, 0.5]]])
    first, second = (torch.tensor(v).sigmoid().item() for v in (2.0, -8.0))
    logit_part = first**2 * (0.3**2 + 0.1**2) + second**2 * 2.0
    # Widths and heights: 1 + 3 and 2 + 6 cells; the small box counts as half a cell.
    sides = first**2 * ((0.1 / 4) ** 2 + (0.2 / 8) ** 2 + (0.3 / 8) ** 2)
    sides += second**2 * 4 * (0.5 / 0.5) ** 2
    expected = logit_part + 25.0 * sides
    assert squared_change(d_logits, d_distances) == pytest.approx(expected, rel=0.1)


def test_the_same_seed_and_batch_draw_the_same() -> None:
    values = [
        float(confident_projection(seed)(predictions(), batch))
        for seed, batch in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    assert values[0] == values[1]
    assert values[0] != values[2]
    assert values[0] != values[3]
