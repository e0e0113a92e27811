"""Models and losses are of families of the table, and mistakes in them are named."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from tests.yolov6_numbers import LOSS_SETTINGS

from quantpipe.detector.families.yolov6.family import Yolov6Settings, architecture
from quantpipe.errors import ConfigurationError
from quantpipe.schema import convert
from quantpipe.settings.model import LossSettings, ModelSettings, input_of, loss_of

VALUES: dict[str, Any] = {
    "family": "yolov6",
    "name": "n",
    "depth": 0.33,
    "width": 0.25,
    "backbone_channels": [64, 128, 256, 512, 1024],
    "backbone_repeats": [1, 6, 12, 18, 6],
    "neck_channels": [256, 128, 128, 256, 256, 512],
    "neck_repeats": [12, 12, 12, 12],
    "iou_loss": "siou",
    "image_size": 640,
}


def test_the_architecture_takes_the_settings_and_the_classes() -> None:
    model = convert(ModelSettings, VALUES, "model")
    assert isinstance(model, Yolov6Settings)
    built = architecture(model, num_classes=7)
    assert (built.name, built.depth, built.width, built.num_classes) == ("n", 0.33, 0.25, 7)
    assert built.backbone_channels == (64, 128, 256, 512, 1024)


@pytest.mark.parametrize(
    ("image_size", "size"), [(640, (640, 640)), ([384, 640], (384, 640)), ([64, 64], (64, 64))]
)
def test_one_side_means_a_square(image_size: int | list[int], size: tuple[int, int]) -> None:
    model = convert(ModelSettings, VALUES | {"image_size": image_size}, "model")
    assert input_of(model).size == size


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"image_size": 630}, "model.image_size: 630 is not a multiple of 32; take 640"),
        ({"image_size": [384, 630]}, "model.image_size: 630 is not a multiple of 32; take 640"),
        ({"image_size": [32, 640]}, "model.image_size: 32 is not between 64 and 4096"),
        ({"image_size": [64]}, "model.image_size: [64] is not a whole number or a list of 2"),
        ({"family": "yolov7"}, "model.family: 'yolov7' is unknown; did you mean 'yolov6'?"),
        ({"image_size": 32}, "model.image_size: 32 is not between 64 and 4096"),
        ({"width": 0}, "model.width: 0 is not above 0 and at most 4"),
        ({"iou_loss": "diou"}, "model.iou_loss: 'diou' is not one of giou, siou"),
        ({"backbone_channels": [64, 128]}, "model"),
        ({"neck_repeats": [12, 12, 12]}, "model"),
        ({"neck_channels": [256, 128, 128, 256, 256, 4]}, "model.neck_channels: 4 is not between"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        convert(ModelSettings, VALUES | changes, "model")
    assert str(caught.value).startswith(line)


def test_a_loss_is_of_the_family_that_it_names() -> None:
    assert convert(LossSettings, asdict(LOSS_SETTINGS), "train.loss") == LOSS_SETTINGS
    loss = loss_of("yolov6", LOSS_SETTINGS, path="train.loss")
    assert vars(loss)["settings"] == LOSS_SETTINGS


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"family": "yolov5"}, "train.loss.family: 'yolov5' is unknown; did you mean 'yolov6'?"),
        ({"box_loss": "diou"}, "train.loss.box_loss: 'diou' is not one of giou, siou"),
        ({"focal_alpha": 2.0}, "train.loss.focal_alpha: 2 is not between 0 and 1"),
    ],
)
def test_mistakes_in_a_loss_are_named(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        convert(LossSettings, asdict(LOSS_SETTINGS) | changes, "train.loss")
    assert str(caught.value).startswith(line)
