"""The toy family with a loss of its own: what one writes to train a family from labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from tests.detector.families import toy_family
from tests.detector.families.toy_family import CELL, TOY, ToyNetwork, ToySettings, toy_checkpoint
from torch import Tensor
from torch.nn import functional

from quantpipe.detector.families.implementation import (
    LossValue,
    RawPrediction,
    Search,
    Start,
    Training,
)


@dataclass(frozen=True, kw_only=True)
class ToyLossSettings:
    """The ``loss`` group: not a field of it is another family's."""

    family: Literal["toy"]
    side_weight: float


@dataclass(frozen=True, kw_only=True)
class ToyLoss:
    """Cross entropy of the scores, and how far the sides lie off in the cell of a box's center."""

    settings: ToyLossSettings

    def __call__(
        self,
        prediction: RawPrediction,
        boxes: Tensor,
        labels: Tensor,
        *,
        over_processes: Callable[[Tensor], Tensor] = lambda local: local,
        assigned_by: RawPrediction | None = None,
    ) -> LossValue:
        """Returns the loss of a batch."""
        image, row = (labels >= 0).nonzero(as_tuple=True)
        box = boxes[image, row]
        column, line = ((box[:, :2] + box[:, 2:]) / 2 / CELL).long().T
        columns = prediction.features[0].shape[-1]
        anchor = line * columns + column
        targets = torch.zeros_like(prediction.class_logits)
        targets[image, anchor, labels[image, row]] = 1.0
        entropy = functional.binary_cross_entropy_with_logits(
            prediction.class_logits, targets, reduction="sum"
        )
        center = (torch.stack([column, line], 1) + 0.5) * CELL
        sides = torch.cat([center - box[:, :2], box[:, 2:] - center], 1)
        off = (prediction.distances[image, anchor] - sides).abs().mean(1).sum() / CELL
        count = over_processes(targets.sum()).clamp_min(1)
        parts = (entropy / count, self.settings.side_weight * off / count)
        return LossValue(parts[0] + parts[1], *parts)


def _start(form: str, model: ToySettings, num_classes: int, seed: int, search: Search) -> Start:
    """The one form; nothing is searched."""
    assert (form, model.family, search.file) == ("plain", "toy", None)
    start = toy_checkpoint([str(label) for label in range(num_classes)], seed=seed)
    network = ToyNetwork(num_classes)
    network.load_state_dict(start.tensors)
    return Start(network=network, settings=start.settings, masks=None)


TRAINED_TOY = replace(TOY, forms=("plain",), loss=ToyLossSettings, module=__name__)

IMPLEMENTATION = replace(
    toy_family.IMPLEMENTATION,
    training=Training(loss=lambda settings: ToyLoss(settings=settings), start=_start),
)
