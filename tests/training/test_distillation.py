import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.conftest import DISTILLATION
from torch import nn

from quantpipe.detector.families.implementation import RawPrediction
from quantpipe.errors import ArtifactError
from quantpipe.training.distillation import (
    channel_wise_distillation,
    class_distillation,
    distillation_loss,
    distillation_weight,
)


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def divergence(student: Any, teacher: Any) -> Any:
    p, q = softmax(teacher), softmax(student)
    return (p * (np.log(p) - np.log(q))).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_class_distillation_is_kl_times_the_square_of_the_temperature(temperature: float) -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (2, 3, 7, 5))
    expected = divergence(student / temperature, teacher / temperature).mean() * temperature**2
    found = class_distillation(
        torch.tensor(student), torch.tensor(teacher), temperature=temperature
    )
    assert found.item() == pytest.approx(expected, rel=1e-3)


def test_channel_wise_distillation_is_kl_over_positions_summed_over_levels() -> None:
    rng = np.random.default_rng(1)
    shapes = [(2, 4, 6, 6), (2, 8, 3, 3)]
    maps = [[rng.normal(0, 2, shape) for shape in shapes] for _ in range(2)]
    expected = sum(
        divergence(s.reshape(*s.shape[:2], -1), t.reshape(*t.shape[:2], -1)).mean()
        for s, t in zip(*maps, strict=True)
    )
    as_torch = [[torch.tensor(array) for array in side] for side in maps]
    found = channel_wise_distillation(*as_torch, temperature=1.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_weight_falls_by_a_half_cosine() -> None:
    assert distillation_weight(0, 10) == 1
    assert distillation_weight(5, 10) == pytest.approx((1 + 0.01) / 2)
    assert distillation_weight(10, 10) == pytest.approx(0.01)
    assert distillation_weight(2, 10) == pytest.approx(
        0.01 + 0.99 * (1 + math.cos(math.pi / 5)) / 2
    )


NUMBERS = replace(DISTILLATION, class_weight=2.0)


def test_loss_weighs_both_parts_and_decays(tiny_detector: Callable[..., Any]) -> None:
    teacher, student = tiny_detector(), tiny_detector()
    nn.init.normal_(student.stem.weight, generator=torch.Generator().manual_seed(1))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mine = student.predict(images)
    loss = distillation_loss(teacher, NUMBERS, epochs=10)
    with torch.no_grad():
        theirs = teacher.predict(images)
    expected = 2 * class_distillation(
        mine.class_logits, theirs.class_logits, temperature=20.0
    ) + 10 * channel_wise_distillation(mine.features, theirs.features, temperature=1.0)
    assert expected.item() > 0.01
    assert loss(images, mine, 0).item() == pytest.approx(expected.item())
    later = loss(images, mine, 5).item()
    assert later == pytest.approx(expected.item() * distillation_weight(5, 10))


@pytest.mark.parametrize("mixed", [False, True])
def test_gradient_reaches_the_student_only(mixed: bool, tiny_detector: Callable[..., Any]) -> None:
    teacher, student = tiny_detector(), tiny_detector()
    nn.init.normal_(student.stem.weight, generator=torch.Generator().manual_seed(1))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    running = teacher.norm.running_mean.clone()
    loss = distillation_loss(teacher, replace(NUMBERS, mixed_precision_teacher=mixed), epochs=10)
    loss(images, student.predict(images), 0).backward()  # type: ignore[no-untyped-call]
    assert student.stem.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert torch.equal(teacher.norm.running_mean, running)


def test_a_teacher_in_half_precision_teaches_almost_the_same(
    tiny_detector: Callable[..., Any],
) -> None:
    teacher, student = tiny_detector(), tiny_detector()
    nn.init.normal_(student.stem.weight, generator=torch.Generator().manual_seed(1))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    prediction = student.predict(images)
    exact, mixed = (
        distillation_loss(teacher, replace(NUMBERS, mixed_precision_teacher=mixed), epochs=10)(
            images, prediction, 0
        ).item()
        for mixed in (False, True)
    )
    assert mixed != exact
    assert mixed == pytest.approx(exact, rel=0.02)


def test_a_perfect_student_loses_nothing(tiny_detector: Callable[..., Any]) -> None:
    teacher = tiny_detector()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loss = distillation_loss(teacher, NUMBERS, epochs=10)
    assert loss(images, teacher.predict(images), 0).item() == pytest.approx(0, abs=1e-5)


class Fixed(nn.Module):
    def __init__(self, num_classes: int, channels: int):
        super().__init__()
        self.num_classes, self.channels = num_classes, channels

    def predict(self, images: torch.Tensor) -> RawPrediction:
        features = [torch.zeros(len(images), self.channels, n, n) for n in (4, 2, 1)]
        return RawPrediction(
            torch.zeros(len(images), 21, self.num_classes),
            torch.zeros(len(images), 21, 4),
            (features[0], features[1], features[2]),
        )


def test_a_teacher_of_other_classes_is_refused() -> None:
    images = torch.zeros(1, 3, 32, 32)
    loss = distillation_loss(Fixed(80, 8), NUMBERS, epochs=10)
    with pytest.raises(ArtifactError, match="the teacher has 80 classes, the student 3"):
        loss(images, Fixed(3, 8).predict(images), 0)


def test_a_teacher_of_another_width_teaches_classes_only() -> None:
    images = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ArtifactError, match="set the feature weight to 0"):
        distillation_loss(Fixed(3, 16), NUMBERS, epochs=10)(images, Fixed(3, 8).predict(images), 0)
    loss = distillation_loss(Fixed(3, 16), replace(NUMBERS, feature_weight=0.0), epochs=10)
    assert loss(images, Fixed(3, 8).predict(images), 0).item() == 0


def test_a_model_without_features_teaches_classes_only() -> None:
    images = torch.zeros(1, 3, 32, 32)
    bare = Fixed(3, 8).predict(images)._replace(features=())
    network = Fixed(3, 8)
    network.predict = lambda _: bare  # type: ignore[assignment,method-assign]
    with pytest.raises(ArtifactError, match="no features to be taught by; set the feature weight"):
        distillation_loss(network, NUMBERS, epochs=10)(images, bare, 0)
