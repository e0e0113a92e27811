"""That every batch of every epoch is stepped on once, from any step on, as if never stopped."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from tests.training.conftest import Source

from quantpipe.training.recipe import Recipe
from quantpipe.training.step_batches import step_batches

MakeRecipe = Callable[..., Recipe]
Make = Callable[..., Any]


def pictures(steps: Any) -> list[tuple[int, list[float]]]:
    """Each step as its epoch and the mean of every batch, by which batches are told apart."""
    return [(epoch, [b.images.float().mean().item() for b in group]) for epoch, group in steps]


def test_no_step_spans_two_epochs(make_recipe: MakeRecipe, make_source: Make) -> None:
    recipe = make_recipe(epochs=2, nominal_batch=4)  # two batches to a step
    steps = list(step_batches(make_source(5), recipe, 0))
    assert [(epoch, len(group)) for epoch, group in steps] == [
        (0, 2), (0, 2), (0, 1), (1, 2), (1, 2), (1, 1),
    ]  # fmt: skip


def test_batches_come_in_their_order_and_once(make_recipe: MakeRecipe, make_source: Make) -> None:
    recipe = make_recipe(epochs=2, nominal_batch=4)
    source = make_source(5)
    whole = [b for epoch in (0, 1) for b in source(epoch=epoch, start_batch=0, strong=True)]
    stepped = [b for _, group in step_batches(make_source(5), recipe, 0) for b in group]
    assert len(stepped) == len(whole) == 10
    assert all(torch.equal(a.images, b.images) for a, b in zip(stepped, whole, strict=True))


@pytest.mark.parametrize("first", range(7))
def test_the_rest_of_a_training_is_the_same_from_any_step(
    make_recipe: MakeRecipe, make_source: Make, first: int
) -> None:
    recipe = make_recipe(epochs=2, nominal_batch=4)
    whole = pictures(step_batches(make_source(5), recipe, 0))
    assert pictures(step_batches(make_source(5), recipe, first)) == whole[first:]


def test_last_epochs_ask_for_no_strong_augmentation(
    make_recipe: MakeRecipe, make_source: Make
) -> None:
    source = make_source(2)
    list(step_batches(source, make_recipe(epochs=3, no_augmentation_epochs=2), 0))
    assert source.calls == [(0, 0, True), (1, 0, False), (2, 0, False)]


class Short(Source):
    """Its epochs end a batch early."""

    def __call__(self, *, epoch: int, start_batch: int, strong: bool) -> Iterator[Any]:
        return islice(
            super().__call__(epoch=epoch, start_batch=start_batch, strong=strong),
            self.num_batches - start_batch - 1,
        )


def test_a_source_that_ends_early_is_a_fault(make_recipe: MakeRecipe) -> None:
    with pytest.raises(AssertionError, match="epoch 0 has fewer than 3 batches"):
        list(step_batches(Short(3), make_recipe(), 0))
