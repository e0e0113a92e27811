from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from quantpipe.quantization.output_error import (
    OUTPUT_ERRORS,
    ErrorMeasure,
    detection_error,
    noise_to_signal,
)

ANCHORS, CLASSES = 6, 3


def outputs(seed: int, num_images: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_images, ANCHORS, CLASSES, generator=generator, dtype=torch.float64)
    sides = torch.rand(num_images, ANCHORS, 4, generator=generator, dtype=torch.float64) + 0.5
    return logits, sides


def test_noise_is_power_over_power() -> None:
    logits, sides = outputs(0)
    got = noise_to_signal((logits * 1.1, sides * 0.8), (logits, sides))
    torch.testing.assert_close(got, torch.full((2,), (0.01 + 0.04) / 2, dtype=torch.float64))


def test_detections_are_compared_anchor_by_anchor() -> None:
    reference, changed = outputs(0), outputs(1)
    got = detection_error(changed, reference)
    for image in range(2):
        total = weights = 0.0
        for anchor in range(ANCHORS):
            scores = [1 / (1 + math.exp(-v)) for v in reference[0][image, anchor].tolist()]
            others = [1 / (1 + math.exp(-v)) for v in changed[0][image, anchor].tolist()]
            divergence = sum(
                p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
                for p, q in zip(scores, others, strict=True)
            )
            left, top, right, bottom = reference[1][image, anchor].tolist()
            sizes = (left + right, top + bottom) * 2
            moved = (changed[1] - reference[1])[image, anchor].tolist()
            sides = sum((d / s) ** 2 for d, s in zip(moved, sizes, strict=True))
            total += max(scores) * (divergence + sides)
            weights += max(scores)
        assert float(got[image]) == pytest.approx(total / weights, rel=1e-9)


def test_an_anchor_without_confidence_counts_for_nothing() -> None:
    logits, sides = outputs(0)
    logits[:, 0] = -40.0
    changed = (logits.clone(), sides.clone())
    changed[0][:, 0] += 3.0
    changed[1][:, 0] *= 2.0
    assert float(detection_error(changed, (logits, sides)).max()) < 1e-12


@pytest.mark.parametrize("name", list(OUTPUT_ERRORS))
def test_the_curvature_is_the_second_derivative(name: ErrorMeasure) -> None:
    error, reference = OUTPUT_ERRORS[name], outputs(0)
    assert error.name == name
    torch.testing.assert_close(
        error.measure(reference, reference), torch.zeros(2, dtype=torch.float64)
    )
    step = 1e-4
    for which, weight in enumerate(error.curvature(reference)):
        weight = weight.expand_as(reference[which])
        for place in ((0, 1, 0), (1, 5, 2)):
            moved = [output.clone() for output in reference]
            moved[which][place] += step
            found = float(error.measure(moved, reference)[place[0]]) / step**2
            assert found == pytest.approx(float(weight[place]), rel=1e-3)


@pytest.mark.parametrize("name", list(OUTPUT_ERRORS))
def test_boxes_and_scores_without_size_stay_finite(name: ErrorMeasure) -> None:
    nothing = (torch.full((1, 4, 2), -200.0), torch.zeros(1, 4, 4))
    changed = (nothing[0] + 1, nothing[1] + 1e-3)
    assert torch.isfinite(OUTPUT_ERRORS[name].measure(changed, nothing)).all()
    assert all(torch.isfinite(weight).all() for weight in OUTPUT_ERRORS[name].curvature(nothing))
