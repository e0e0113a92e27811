"""A label-free loss whose gradient tells what changes the detections, not the background."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantpipe.quantization.damage import Loss

# A box whose sides move by a tenth of its size loses about as much as a score whose logit moves by
# a half: one IoU threshold of COCO's ten, or some places in the ranking.
_BOX_WEIGHT = 5.0
_LEAST_SIZE = 0.5  # cells; sides of boxes that nobody detects may meet


def confident_projection(seed: int) -> Loss:
    """Returns a loss whose expected squared gradient predicts the noise of confident predictions.

    L = sum over the cells of p (v . logits + 5 u . distances / size), with p the largest class
    probability of a cell, ``size`` the width or height of its box, and v, u standard normal:
    then E[(dL)^2] is the squared change of the logits and of the relative box sides, weighted with
    p^2 (Hutchinson's estimator). The many cells without an object hardly count.

    The loss takes class logits (B, A, C) and distances (B, A, 4): left, top, right, bottom.

    Args:
        seed: Of v and u; drawn on the processor, so equal on every device.
    """

    def loss(predictions: Sequence[Tensor], batch: int) -> Tensor:
        logits, distances = predictions
        generator = torch.Generator().manual_seed(seed + batch)
        directions = [
            torch.randn(output.shape, generator=generator).to(output.device)
            for output in predictions
        ]
        confidence = logits.detach().sigmoid().amax(dim=-1, keepdim=True)
        sides = distances.detach()
        size = (sides[..., :2] + sides[..., 2:]).abs().clamp_min(_LEAST_SIZE).repeat(1, 1, 2)
        per_cell = (directions[0] * logits).sum(dim=-1, keepdim=True)
        per_cell = per_cell + _BOX_WEIGHT * (directions[1] * distances / size).sum(-1, keepdim=True)
        return (confidence * per_cell).sum()

    return loss
