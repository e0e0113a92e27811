import math
from dataclasses import replace

import pytest
import torch
from tests.yolov6_numbers import LOSS_SETTINGS
from torch import Tensor

from quantpipe.detector.families.implementation import RawPrediction
from quantpipe.detector.families.yolov6.loss import TaskAlignedLoss, varifocal_loss
from quantpipe.detector.families.yolov6.loss_settings import BoxLoss

LOSS = TaskAlignedLoss(strides=(8, 16, 32), settings=LOSS_SETTINGS)


def prediction(logits: Tensor, distances: Tensor) -> RawPrediction:
    """Of 64 px images: 64 + 16 + 4 anchors."""
    p3, p4, p5 = (torch.zeros(len(logits), 1, n, n) for n in (8, 4, 2))
    return RawPrediction(logits, distances, (p3, p4, p5))


def test_varifocal_is_the_papers() -> None:
    # Equation 2: -q (q log p + (1 - q) log(1 - p)) for q > 0, else -alpha p^gamma log(1 - p).
    p, q = 0.3, 0.6
    logit = torch.tensor([math.log(p / (1 - p))] * 2, dtype=torch.float64)
    loss = varifocal_loss(logit, torch.tensor([q, 0.0], dtype=torch.float64), alpha=0.75, gamma=2.0)
    foreground = -q * (q * math.log(p) + (1 - q) * math.log(1 - p))
    background = -0.75 * p**2 * math.log(1 - p)
    assert loss.tolist() == pytest.approx([foreground, background])


def test_varifocal_gradient_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.rand(20, generator=generator, dtype=torch.float64)
    targets[::2] = 0
    assert torch.autograd.gradcheck(
        lambda x: varifocal_loss(x, targets, alpha=0.75, gamma=2.0), (logits,)
    )


def test_one_anchor_one_object_by_hand() -> None:
    # The object holds one point only, the stride-8 anchor 0 at (4, 4), and is predicted exactly.
    logits = torch.full((1, 84, 1), -20.0)
    logits[0, 0, 0] = 0.0
    distances = torch.full((1, 84, 4), 0.375)
    boxes, labels = torch.tensor([[[1.0, 1.0, 7.0, 7.0]]]), torch.tensor([[0]])
    total, classification, box = LOSS(prediction(logits, distances), boxes, labels)
    assert classification.item() == pytest.approx(math.log(2), rel=1e-5)  # BCE(1/2, 1) * 1 / 1
    assert box.item() == pytest.approx(0, abs=1e-5)
    assert total.item() == pytest.approx(classification.item() + box.item())


def test_divided_by_the_sum_of_target_scores() -> None:
    # Two such objects, each half missed to the right: IoU 1/2, GIoU 1/2, so scores sum to 1.
    logits = torch.full((2, 84, 1), -20.0)
    logits[:, 0] = 0.0
    distances = torch.tensor([0.375, 0.375, 0.0, 0.375]).expand(2, 84, 4)
    boxes, labels = torch.tensor([1.0, 1.0, 7.0, 7.0]).expand(2, 1, 4), torch.zeros(2, 1).long()
    _, classification, box = LOSS(prediction(logits, distances), boxes, labels)
    assert box.item() == pytest.approx(2.5 * (2 * 0.5 * 0.5) / 1.0, rel=1e-5)
    assert classification.item() == pytest.approx(2 * 0.5 * math.log(2), rel=1e-5)


def test_a_batch_without_objects_only_pushes_scores_down() -> None:
    logits = torch.zeros(2, 84, 3, requires_grad=True)
    distances = torch.ones(2, 84, 4, requires_grad=True)
    value = LOSS(prediction(logits, distances), torch.zeros(2, 0, 4), torch.zeros(2, 0).long())
    value.total.backward()  # type: ignore[no-untyped-call]
    assert value.box.item() == 0
    assert value.classification.item() == pytest.approx(2 * 84 * 3 * 0.75 * 0.25 * math.log(2))
    assert logits.grad is not None
    assert bool((logits.grad > 0).all())


def test_gradient_descends_for_both_box_losses() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 84, 2, generator=generator) - 2
    boxes, labels = torch.tensor([[[5.0, 9.0, 44.0, 30.0]]]), torch.tensor([[1]])
    names: tuple[BoxLoss, ...] = ("giou", "siou")
    for name in names:
        loss = replace(LOSS, settings=replace(LOSS_SETTINGS, box_loss=name))
        distances = torch.ones(1, 84, 4, requires_grad=True)
        before = loss(prediction(logits, distances), boxes, labels).box
        before.backward()  # type: ignore[no-untyped-call]
        assert distances.grad is not None
        after = loss(prediction(logits, distances - 0.1 * distances.grad), boxes, labels).box
        assert after.item() < before.item()


def test_half_precision_predictions_are_judged_in_float32() -> None:
    logits = torch.full((1, 84, 1), -3.0, dtype=torch.bfloat16)
    distances = torch.ones(1, 84, 4, dtype=torch.bfloat16)
    boxes, labels = torch.tensor([[[5.0, 9.0, 44.0, 30.0]]]), torch.tensor([[0]])
    half = LOSS(prediction(logits, distances), boxes, labels)
    full = LOSS(prediction(logits.float(), distances.float()), boxes, labels)
    assert half.total.dtype == torch.float32
    assert half.total.item() == full.total.item()
