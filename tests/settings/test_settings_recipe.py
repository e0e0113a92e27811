"""The shipped values reach the domain packages under the same names."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from quantpipe.cli.composition import config_folder
from quantpipe.schema import build
from quantpipe.settings.recipe import (
    AugmentationSettings,
    LossSettings,
    ScheduleSettings,
    augmentation,
    recipe,
)


@pytest.fixture(params=["train_repopt", "qat_distill"])
def stage(request: pytest.FixtureRequest) -> dict[str, Any]:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config")
        plain = OmegaConf.to_container(config[request.param], resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def test_a_recipe_holds_every_value_of_the_stage(stage: dict[str, Any]) -> None:
    made = recipe(
        epochs=3,
        batch_size=8,
        lr=0.1,
        box_loss="giou",
        schedule=build(ScheduleSettings, stage["schedule"], "schedule"),
        loss=build(LossSettings, stage["loss"], "loss"),
    )
    given = {"epochs": 3, "batch_size": 8, "lr": 0.1, "box_loss": "giou"}
    assert asdict(made) == given | stage["schedule"] | stage["loss"]


def test_an_augmentation_holds_every_value_of_the_stage(stage: dict[str, Any]) -> None:
    made = augmentation(build(AugmentationSettings, stage["augmentation"], "augmentation"))
    assert {field.name: getattr(made, field.name) for field in fields(made)} == (
        stage["augmentation"]
    )
