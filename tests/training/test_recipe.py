"""What follows from the numbers of a recipe: batches to a step, steps to an epoch, weight decay."""

from collections.abc import Callable

import pytest

from quantpipe.training.recipe import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("batch", "nominal", "accumulate", "factor"),
    [(64, 64, 1, 1.0), (32, 64, 2, 1.0), (24, 64, 3, 72 / 64), (256, 64, 1, 4.0)],
)
def test_nominal_batch(
    make_recipe: MakeRecipe, batch: int, nominal: int, accumulate: int, factor: float
) -> None:
    recipe = make_recipe(batch_size=batch, nominal_batch=nominal, weight_decay=5e-4)
    assert recipe.accumulate == accumulate
    assert recipe.scaled_weight_decay == pytest.approx(5e-4 * factor)


@pytest.mark.parametrize(("num_batches", "steps"), [(1, 1), (3, 1), (4, 2), (6, 2), (7, 3)])
def test_the_last_step_of_an_epoch_may_have_fewer_batches(
    make_recipe: MakeRecipe, num_batches: int, steps: int
) -> None:
    recipe = make_recipe(batch_size=2, nominal_batch=6)
    assert recipe.steps_per_epoch(num_batches) == steps
