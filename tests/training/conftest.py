from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from tests.training.quantized import TINY
from torch import Tensor, nn

from quantpipe.detector.families.implementation import RawPrediction
from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.training.distillation_numbers import DistillationNumbers
from quantpipe.training.recipe import Recipe
from quantpipe.training.schedule import Schedule

_SCHEDULE = Schedule(
    nominal_batch=2,
    final_lr_fraction=0.01,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    warmup_epochs=1.0,
    warmup_steps=0,
    warmup_max_fraction=0.2,
    warmup_momentum=0.8,
    warmup_bias_lr=0.05,
    ema_decay=0.9,
    ema_ramp_steps=5.0,
    no_augmentation_epochs=1,
    gradient_clip=0.0,
    mixed_precision=False,
    channels_last=False,
)
RECIPE = Recipe(
    epochs=3,
    batch_size=2,
    lr=0.02,
    schedule=_SCHEDULE,
    validate_every=1,
    patience=None,
)
DISTILLATION = DistillationNumbers(
    class_weight=1.0,
    class_temperature=20.0,
    feature_weight=10.0,
    feature_temperature=1.0,
    mixed_precision_teacher=False,
)


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with other numbers, of its own, or its schedule's."""

    def taken(numbers: Any) -> dict[str, Any]:
        return {f.name: changes.pop(f.name) for f in fields(numbers) if f.name in changes}

    schedule = replace(recipe.schedule, **taken(recipe.schedule))
    return replace(recipe, schedule=schedule, **changes)


class TinyDetector(nn.Module):
    """Three levels, two classes; with or without BatchNorm."""

    def __init__(self, *, batch_norm: bool = True):
        super().__init__()
        torch_state = torch.get_rng_state()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 8, 8, bias=not batch_norm)
        self.norm = nn.BatchNorm2d(8) if batch_norm else nn.Identity()
        self.down = nn.ModuleList(nn.Conv2d(8, 8, 2, 2) for _ in range(2))
        self.heads = nn.ModuleList(nn.Conv2d(8, 6, 1) for _ in range(3))
        for head in self.heads:
            assert isinstance(head, nn.Conv2d)
            assert head.bias is not None
            nn.init.constant_(head.bias, 1.0)
        torch.set_rng_state(torch_state)

    def predict(self, images: Tensor) -> RawPrediction:
        features = [torch.relu(self.norm(self.stem(images)))]
        for down in self.down:
            features.append(torch.relu(down(features[-1])))
        pairs = zip(self.heads, features, strict=True)
        outputs = torch.cat([head(feature).flatten(2) for head, feature in pairs], 2).mT
        return RawPrediction(
            outputs[..., 4:] - 3, outputs[..., :4], (features[0], features[1], features[2])
        )


class Boxes(NamedTuple):
    images: Tensor
    boxes: Tensor
    labels: Tensor
    image_ids: Tensor


def rectangles(seed: int, *, num_images: int = 2, size: int = 64, num_boxes: int = 3) -> Boxes:
    """Bright rectangles on a dark ground; the last row is padding in every image."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, num_boxes, 2)
    extent = torch.randint(12, 30, shape, generator=generator)
    low = (torch.rand(shape, generator=generator) * (size - extent)).long()
    labels = torch.randint(0, 2, shape[:2], generator=generator)
    images = torch.randint(0, 40, (num_images, 3, size, size), generator=generator)
    boxes = torch.cat([low, low + extent], -1)
    labels[:, -1], boxes[:, -1] = -1, 0
    for image, row in (labels >= 0).nonzero().tolist():
        x1, y1, x2, y2 = boxes[image, row].tolist()
        images[image, :, y1:y2, x1:x2] = 120 + 100 * labels[image, row]
    return Boxes(images.to(torch.uint8), boxes.float(), labels, torch.arange(num_images))


class Source:
    """Batches as a function of (epoch, index); remembers what it was asked for."""

    def __init__(self, num_batches: int, *, num_images: int = 2):
        self.num_batches = num_batches
        self.num_images = num_images
        self.calls: list[tuple[int, int, bool]] = []

    def __call__(self, *, epoch: int, start_batch: int, strong: bool) -> Iterator[Any]:
        self.calls.append((epoch, start_batch, strong))
        for index in range(start_batch, self.num_batches):
            yield rectangles(1000 * epoch + index, num_images=self.num_images)


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    return partial(changed, RECIPE)


@pytest.fixture
def make_source() -> type[Source]:
    return Source


@pytest.fixture
def tiny_detector() -> type[TinyDetector]:
    return TinyDetector


@pytest.fixture
def make_batch() -> Callable[..., Boxes]:
    return rectangles


@pytest.fixture
def architecture() -> Architecture:
    return TINY
