"""What the stages that train share: which batches, precisions and processes, and what is built."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from quantpipe.cli.composition import config_folder
from quantpipe.cli.config import read_run
from quantpipe.errors import ConfigurationError
from quantpipe.settings.training import (
    TrainerSettings,
    TrainingSettings,
    check_ranks,
    execution,
    recipe,
)


def trainer(**changes: Any) -> TrainerSettings:
    return TrainerSettings(**({"devices": 1, "precision": None, "timeout_s": 60.0} | changes))


def training(step: str, *overrides: str) -> TrainingSettings:
    """The shipped settings of a step."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        plan = read_run(compose("config", overrides=["device=cpu", *overrides]), overrides)
    (config,) = (s.config for s in plan.pipeline.steps if s.name == step)
    assert isinstance(config, TrainingSettings)
    return config


def test_a_batch_is_shared_evenly_or_refused() -> None:
    check_ranks(16, trainer(devices=4))
    with pytest.raises(ConfigurationError, match=r"16 images .* by 3 devices; take 18"):
        check_ranks(16, trainer(devices=3))


@pytest.mark.parametrize("step", ["train_repopt", "qat_distill"])
def test_a_recipe_holds_every_value_of_the_stage(step: str) -> None:
    settings = training(step)
    made = vars(recipe(settings))
    assert made == {name: getattr(settings, name) for name in made}


@pytest.mark.parametrize(
    ("precision", "mixed"), [(None, None), ("32-true", False), ("bf16-mixed", True)]
)
def test_the_trainers_precision_comes_first(precision: Any, mixed: bool | None) -> None:
    settings = replace(training("qat_distill"), trainer=trainer(precision=precision))
    for own in (False, True):
        schedule = replace(settings.schedule, mixed_precision=own)
        found = recipe(replace(settings, schedule=schedule)).schedule
        assert found == replace(schedule, mixed_precision=own if mixed is None else mixed)


@pytest.mark.parametrize(("given", "on_cpu", "on_gpu"), [(None, 0, 2), (0, 0, 0), (5, 5, 5)])
def test_threads_prepare_batches_beside_a_gpu(given: int | None, on_cpu: int, on_gpu: int) -> None:
    settings = replace(training("train_repopt"), num_workers=given)
    found = [execution(settings, device).num_workers for device in ("cpu", "cuda")]
    assert found == [on_cpu, on_gpu]


def test_what_differs_between_the_stages_is_all_that_their_files_say() -> None:
    """The schedules of both are the shipped one but for a few numbers; the augmentation is one."""
    train, fine_tune = training("train_repopt"), training("qat_distill")
    assert train.augmentation == fine_tune.augmentation
    assert train.loss == fine_tune.loss
    shared = {n for n, v in vars(train.schedule).items() if v == vars(fine_tune.schedule)[n]}
    assert {"nominal_batch", "momentum", "nesterov", "warmup_momentum", "channels_last"} <= shared
