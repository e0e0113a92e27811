"""From the batches of epochs to those of optimizer steps, from any step on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from quantpipe.training.recipe import Recipe

if TYPE_CHECKING:
    from quantpipe.data.loader import Batch


class BatchSource(Protocol):
    """Batches of an epoch: the same ones whenever they are asked for."""

    @property
    def num_batches(self) -> int:
        """How many an epoch has."""
        ...

    def __call__(self, *, epoch: int, start_batch: int, strong: bool) -> Iterator[Batch]:
        """Yields the batches of ``epoch`` (from 0), from number ``start_batch`` on.

        ``strong`` asks for strong augmentation, which the last epochs of a recipe go without.
        """
        ...


def step_batches(
    source: BatchSource, recipe: Recipe, first_step: int
) -> Generator[tuple[int, list[Batch]], None, None]:
    """Yields (epoch, batches of one optimizer step) from step ``first_step`` on.

    No step spans two epochs; where batches do not divide evenly, an epoch's last step has fewer.
    """
    num_batches, accumulate = source.num_batches, recipe.accumulate
    first_epoch, step_in_epoch = divmod(first_step, recipe.steps_per_epoch(num_batches))
    first_batch = step_in_epoch * accumulate
    for epoch in range(first_epoch, recipe.epochs):
        strong = epoch < recipe.epochs - recipe.schedule.no_augmentation_epochs
        batches = source(epoch=epoch, start_batch=first_batch, strong=strong)
        for start in range(first_batch, num_batches, accumulate):
            wanted = min(accumulate, num_batches - start)
            group = list(islice(batches, wanted))
            assert len(group) == wanted, f"epoch {epoch} has fewer than {num_batches} batches"
            yield epoch, group
        first_batch = 0
