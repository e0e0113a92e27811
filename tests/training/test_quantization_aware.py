"""The same loop trains a fake-quantized network, and its ranges, toward its float self."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.input_specifications import letterboxed
from tests.training.conftest import DISTILLATION
from tests.training.quantized import RULES, calibrated, deployed_detector, student_of
from tests.yolov6_numbers import LOSS_SETTINGS

from quantpipe.detector.families.yolov6.loss import detection_loss
from quantpipe.detector.families.yolov6.network import Detector
from quantpipe.errors import ArtifactError, Interrupted
from quantpipe.process_group import SingleProcess
from quantpipe.progress import Silent
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.simulation.network import without_ranges
from quantpipe.training.distillation import distillation_loss
from quantpipe.training.epochs import Observers
from quantpipe.training.log import NoLog
from quantpipe.training.loop import TrainResult, train
from quantpipe.training.optimizer import build_sgd
from quantpipe.training.recipe import Recipe
from quantpipe.training.step import Objective


@pytest.fixture(scope="module")
def deployed() -> Detector:
    return deployed_detector()


@pytest.fixture(scope="module")
def scales(deployed: Detector) -> ScaleCache:
    return calibrated(deployed)


class StopAfter(Silent):
    def __init__(self, steps: int):
        self.steps = steps

    def should_stop(self) -> bool:
        self.steps -= 1
        return self.steps == 0


def run(
    student: Any, teacher: Any, source: Any, recipe: Recipe, folder: Path, progress: Silent
) -> TrainResult:
    return train(
        student,
        source,
        recipe,
        Objective(
            loss=detection_loss(replace(LOSS_SETTINGS, classification_weight=0.0)),
            extra_loss=distillation_loss(teacher, DISTILLATION, epochs=recipe.epochs),
            gradient_masks=None,
        ),
        letterboxed(64),
        device=torch.device("cpu"),
        processes=SingleProcess(),
        save_every=100,
        progress_folder=folder,
        observers=Observers(validate=None, log=NoLog(), progress=progress, description="qat"),
    )


@pytest.mark.parametrize("kind", RULES)
def test_a_fake_quantized_network_learns_from_its_float_self_and_resumes(
    kind: str,
    tmp_path: Path,
    make_recipe: Callable[..., Recipe],
    make_source: Callable[..., Any],
    deployed: Detector,
    scales: ScaleCache,
) -> None:
    recipe = make_recipe(epochs=4, lr=1e-3, warmup_epochs=0.0)
    teacher = copy.deepcopy(deployed)
    before = copy.deepcopy(deployed.state_dict())

    def trained(folder: str, progress: Silent) -> TrainResult:
        student = student_of(deployed, scales, RULES[kind])
        return run(student, teacher, make_source(4), recipe, tmp_path / folder, progress)

    whole = trained("a", Silent())
    for steps in (3, 9):  # the last in which averaged ranges move is the twelfth of sixteen
        with pytest.raises(Interrupted):
            trained("b", StopAfter(steps))
    resumed = trained("b", Silent())
    assert whole.weights.keys() == resumed.weights.keys()
    for name, tensor in whole.weights.items():
        assert torch.equal(tensor, resumed.weights[name]), name
    assert without_ranges(whole.weights).keys() == before.keys()
    assert not torch.equal(
        whole.weights["backbone.stem.conv.weight"], before["backbone.stem.conv.weight"]
    )
    ranges = whole.weights.keys() - before.keys()
    start = student_of(deployed, scales, RULES[kind]).state_dict()
    moved = [name for name in ranges if not torch.equal(whole.weights[name], start[name])]
    assert len(moved) >= 0.9 * len(ranges)  # some by less than float32 can hold
    assert bool(ranges) == (kind != "fixed")
    assert whole.history[0]["extra"] > 0
    # The teacher is as it was.
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[name], t) for name, t in teacher.state_dict().items())


def test_a_state_of_other_ranges_is_refused(
    tmp_path: Path,
    make_recipe: Callable[..., Recipe],
    make_source: Callable[..., Any],
    deployed: Detector,
    scales: ScaleCache,
) -> None:
    recipe = make_recipe(epochs=1, lr=1e-3)
    arguments = (deployed, make_source(1), recipe, tmp_path, Silent())
    run(student_of(deployed, scales, RULES["learned"]), *arguments)
    with pytest.raises(ArtifactError, match="of another network or recipe"):
        run(student_of(deployed, scales, RULES["ema"]), *arguments)


def test_steps_are_not_decayed(deployed: Detector, scales: ScaleCache) -> None:
    student = student_of(deployed, scales, RULES["learned"])
    groups = build_sgd(student, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.5).param_groups
    decayed = {id(p) for group in groups for p in group["params"] if group["weight_decay"]}
    steps = {name: p for name, p in student.named_parameters() if name.endswith(".step")}
    assert steps
    assert not decayed & {id(step) for step in steps.values()}
