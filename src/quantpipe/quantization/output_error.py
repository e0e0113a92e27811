"""What an error of a detector's raw outputs is, and its second-order form.

The outputs are class logits (B, A, C) and distances (B, A, 4): left, top, right, bottom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

ErrorMeasure = Literal["detections", "noise"]

# How much a squared error of a side, in units of the box, weighs against a nat of divergence.
_BOX_WEIGHT = 1.0
_TINY = 1e-12
_SMALLEST_SIDE = 1e-2  # in cells: keeps the unit of a vanishing box from being zero


@dataclass(frozen=True, kw_only=True)
class OutputError:
    """An error of outputs against those of the float network.

    Attributes:
        name: Of the measure.
        measure: From outputs and the float network's, the error of each image, (B,).
        curvature: From the float network's outputs, for each of their elements the weight of its
            squared change: ``measure`` is the sum of weight * change^2 for small changes.
    """

    name: ErrorMeasure
    measure: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
    curvature: Callable[[Sequence[Tensor]], tuple[Tensor, ...]]


def noise_to_signal(outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """Returns noise power / signal power (the inverse of the SQNR), the mean over the outputs."""
    changes = [changed - exact for changed, exact in zip(outputs, reference, strict=True)]
    return _weighted_squares(changes, noise_curvature(reference))


def noise_curvature(reference: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Returns 1 / signal power, shared by the outputs."""
    powers = [exact.flatten(1).double().square().sum(dim=1) for exact in reference]
    return tuple(
        (1 / (len(reference) * power.clamp_min(_TINY))).view(-1, *[1] * (exact.dim() - 1))
        for power, exact in zip(powers, reference, strict=True)
    )


def detection_error(outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """Returns the divergence of the detections, anchors weighted by the float network's confidence.

    For each anchor: the Kullback-Leibler divergence of the float network's class scores p from q,
    sum over classes of p log(p/q) + (1-p) log((1-p)/(1-q)), and the squared errors of the box's
    sides in units of its width and height. An anchor weighs as much as its largest score; the
    weights of an image add up to 1.
    """
    logits, distances = (output.double() for output in outputs)
    exact_logits, exact_distances = (output.double() for output in reference)
    scores = exact_logits.sigmoid()
    agreed = functional.logsigmoid(exact_logits) - functional.logsigmoid(logits)
    refused = functional.logsigmoid(-exact_logits) - functional.logsigmoid(-logits)
    divergence = (scores * agreed + (1 - scores) * refused).sum(dim=2)
    sides = ((distances - exact_distances) / _units(exact_distances)).square().sum(dim=2)
    return (_weights(scores) * (divergence + _BOX_WEIGHT * sides)).sum(dim=1)


def detection_curvature(reference: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Returns weight * p (1-p) / 2 for the logits, weight / unit^2 for the distances."""
    logits, distances = (output.double() for output in reference)
    scores = logits.sigmoid()
    weights = _weights(scores).unsqueeze(2)
    return weights * scores * (1 - scores) / 2, _BOX_WEIGHT * weights / _units(distances).square()


OUTPUT_ERRORS: Mapping[ErrorMeasure, OutputError] = {
    "detections": OutputError(
        name="detections", measure=detection_error, curvature=detection_curvature
    ),
    "noise": OutputError(name="noise", measure=noise_to_signal, curvature=noise_curvature),
}


def _weights(scores: Tensor) -> Tensor:
    """(B, A): the largest score of each anchor, as a share of the image's."""
    confidence = scores.amax(dim=2)
    return confidence / confidence.sum(dim=1, keepdim=True).clamp_min(_TINY)


def _units(distances: Tensor) -> Tensor:
    """(B, A, 4): width, height, width, height of the boxes."""
    sizes = (distances[..., :2] + distances[..., 2:]).clamp_min(_SMALLEST_SIDE)
    return torch.cat([sizes, sizes], dim=2)


def _weighted_squares(changes: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    terms = [
        (weight * change.double().square()).flatten(1).sum(dim=1)
        for change, weight in zip(changes, weights, strict=True)
    ]
    return torch.stack(terms).sum(dim=0)
