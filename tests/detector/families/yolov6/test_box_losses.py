import math

import pytest
import torch

from quantpipe.detector.families.yolov6.box_losses import BOX_LOSSES, giou_loss, overlap, siou_loss


def box(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def paper_siou(p: list[float], t: list[float]) -> float:
    """Gevorgyan, arXiv 2205.12740, as it is printed: arcsin and all."""
    dx, dy = (t[0] + t[2] - p[0] - p[2]) / 2, (t[1] + t[3] - p[1] - p[3]) / 2
    x = abs(dy) / math.hypot(dx, dy)
    angle = 1 - 2 * math.sin(math.asin(x) - math.pi / 4) ** 2
    width, height = max(p[2], t[2]) - min(p[0], t[0]), max(p[3], t[3]) - min(p[1], t[1])
    gamma = 2 - angle
    distance = sum(1 - math.exp(-gamma * r) for r in ((dx / width) ** 2, (dy / height) ** 2))
    sizes = [(p[2] - p[0], t[2] - t[0]), (p[3] - p[1], t[3] - t[1])]
    shape = sum((1 - math.exp(-abs(a - b) / max(a, b))) ** 4 for a, b in sizes)
    shared = max(0, min(p[2], t[2]) - max(p[0], t[0])) * max(0, min(p[3], t[3]) - max(p[1], t[1]))
    union = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (p, t)) - shared
    return 1 - shared / union + (distance + shape) / 2


def test_giou_of_overlapping_boxes_by_hand() -> None:
    # 2x2 boxes that share a 1x1 corner: IoU 1/7, hull 3x3, so GIoU = 1/7 - 2/9.
    loss = giou_loss(box(0, 0, 2, 2), box(1, 1, 3, 3))
    assert loss.item() == pytest.approx(1 - 1 / 7 + 2 / 9, abs=1e-6)


def test_giou_of_distant_boxes_by_hand() -> None:
    # Unit boxes 8 apart: IoU 0, hull 10x1, union 2.
    loss = giou_loss(box(0, 0, 1, 1), box(9, 0, 10, 1))
    assert loss.item() == pytest.approx(1 + 8 / 10, abs=1e-6)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_equal_boxes_lose_nothing(name: str) -> None:
    assert BOX_LOSSES[name](box(3, 4, 20, 11), box(3, 4, 20, 11)).item() == pytest.approx(
        0, abs=1e-7
    )


@pytest.mark.parametrize(
    ("predicted", "target"),
    [
        ([0.0, 0.0, 10.0, 6.0], [2.0, 1.0, 9.0, 12.0]),
        ([5.0, 5.0, 8.0, 30.0], [20.0, 2.0, 50.0, 14.0]),
        ([0.0, 0.0, 4.0, 4.0], [1.0, 0.0, 5.0, 4.0]),
        ([0.0, 0.0, 4.0, 4.0], [0.0, 1.5, 4.0, 5.0]),
    ],
)
def test_siou_is_the_papers(predicted: list[float], target: list[float]) -> None:
    loss = siou_loss(box(*predicted), box(*target)).item()
    assert loss == pytest.approx(paper_siou(predicted, target), abs=1e-6)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    low = torch.rand(6, 2, generator=generator, dtype=torch.float64) * 10
    size = torch.rand(6, 2, generator=generator, dtype=torch.float64) * 8 + 2
    target = torch.cat([low, low + size], -1)
    shift = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    predicted = (target + shift).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: BOX_LOSSES[name](p, target), (predicted,))


@pytest.mark.parametrize("name", BOX_LOSSES)
@pytest.mark.parametrize("predicted", [(5, 5, 5, 5), (9, 9, 1, 1), (5, 5, 5, 9)])
def test_a_collapsed_box_has_finite_loss_and_gradient(name: str, predicted: tuple[int]) -> None:
    degenerate = torch.tensor([predicted], dtype=torch.float32, requires_grad=True)
    loss = BOX_LOSSES[name](degenerate, torch.tensor([[2.0, 2.0, 8.0, 8.0]]))
    (gradient,) = torch.autograd.grad(loss.sum(), degenerate)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


def test_inverted_box_overlaps_nothing() -> None:
    assert overlap(box(9, 9, 1, 1), box(0, 0, 10, 10)).iou.item() == 0
