"""That an epoch is recorded and validated once, when its last step is done, by rank 0 alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.input_specifications import letterboxed
from tests.yolov6_numbers import LOSS_SETTINGS
from torch import nn

from quantpipe.detector.families.yolov6.loss import detection_loss
from quantpipe.process_group import SingleProcess
from quantpipe.progress import Silent
from quantpipe.training.epochs import Epochs, Observers
from quantpipe.training.log import NoLog
from quantpipe.training.range_updates import RangeUpdates
from quantpipe.training.rates import rates
from quantpipe.training.recipe import Recipe
from quantpipe.training.session import Session
from quantpipe.training.step import Objective, Stepper

Make = Callable[..., Any]
LENGTH = 4  # steps in an epoch
PARTS = {"loss": 6.0, "cls": 1.0, "iou": 2.0, "extra": 3.0}


class SecondOfTwo(SingleProcess):
    """Rank 1, to which rank 0 sends a score."""

    rank, size = 1, 2

    def broadcast(self, value: Any) -> Any:
        assert value is None, "only rank 0 has a score"
        return 0.75


@pytest.fixture
def make_epochs(tmp_path: Path, make_recipe: Make, tiny_detector: Make) -> Make:
    def make(validate: Any = None, processes: Any = None, **numbers: Any) -> Epochs:
        recipe: Recipe = make_recipe(**numbers)
        session = Session(tiny_detector(), recipe, tmp_path)
        stepper = Stepper(
            session=session,
            recipe=recipe,
            rates=rates(recipe, steps_per_epoch=LENGTH),
            objective=Objective(
                loss=detection_loss(LOSS_SETTINGS),
                extra_loss=None,
                gradient_masks=None,
            ),
            masks=[],
            specification=letterboxed(64),
            ranges=RangeUpdates(session.network),
            device=torch.device("cpu"),
            memory=torch.contiguous_format,
            processes=processes or SingleProcess(),
        )
        observers = Observers(
            validate=validate, log=NoLog(), progress=Silent(), description="train"
        )
        return Epochs(stepper=stepper, length=LENGTH, observers=observers)

    return make


def go(epochs: Epochs, num_steps: int, *, factor: float = 1.0) -> None:
    """Steps without training, each of losses that are ``factor`` larger than the one before."""
    values = dict(PARTS)
    for _ in range(num_steps):
        epochs.stepper.session.counters.step += 1
        epochs.add(values, 0.5)
        epochs.close_if_over()
        values = {name: value * factor for name, value in values.items()}


def test_a_record_holds_the_means_of_the_steps_and_the_sum_of_seconds(make_epochs: Make) -> None:
    epochs = make_epochs()
    go(epochs, 3, factor=2)
    counters = epochs.stepper.session.counters
    assert counters.history == []
    counters.step += 1
    epochs.add(dict.fromkeys(PARTS, 0.0), 0.5)
    epochs.close_if_over()
    (record,) = counters.history
    assert {name: record[name] for name in PARTS} == {n: v * 7 / 4 for n, v in PARTS.items()}
    assert (record["epoch"], record["seconds"]) == (1, 2.0)
    assert record["lr"] == epochs.stepper.rates.weight_lr(3)
    assert counters.sums == {}


def test_an_epoch_is_closed_once(make_epochs: Make) -> None:
    epochs = make_epochs()
    go(epochs, LENGTH)
    epochs.close_if_over()
    assert len(epochs.stepper.session.counters.history) == 1


@pytest.mark.parametrize(("every", "validated"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3, 4])])
def test_the_last_epoch_is_always_validated(
    make_epochs: Make, every: int, validated: list[int]
) -> None:
    epochs = make_epochs(validate=lambda _: 0.5, epochs=4, validate_every=every)
    go(epochs, 4 * LENGTH)
    history = epochs.stepper.session.counters.history
    assert [record["epoch"] for record in history if "map" in record] == validated
    assert epochs.is_over


@pytest.mark.parametrize(("patience", "over_after"), [(None, 8), (1, 3), (2, 4), (7, 8)])
def test_a_training_is_over_when_its_score_has_not_risen_for_so_many_epochs(
    make_epochs: Make, patience: int | None, over_after: int
) -> None:
    scores = iter([0.1, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1])
    epochs = make_epochs(validate=lambda _: next(scores), epochs=8, patience=patience)
    done = 0
    while not epochs.is_over:
        go(epochs, LENGTH)
        done += 1
    assert done == over_after


def test_other_ranks_take_the_score_of_rank_0(make_epochs: Make) -> None:
    def validate(network: nn.Module) -> float:
        raise AssertionError("rank 0 validates")

    epochs = make_epochs(validate=validate, processes=SecondOfTwo())
    go(epochs, LENGTH)
    counters = epochs.stepper.session.counters
    assert counters.history[0]["map"] == counters.best_score == 0.75


def test_the_network_is_scored_in_evaluation_mode_and_goes_on_in_training(
    make_epochs: Make,
) -> None:
    modes: list[tuple[bool, bool]] = []

    def validate(network: nn.Module) -> float:
        modes.append((network.training, torch.is_grad_enabled()))
        return 0.5

    epochs = make_epochs(validate=validate)
    epochs.stepper.session.network.train()
    go(epochs, LENGTH)
    assert modes == [(False, False)]
    assert epochs.stepper.session.network.training
