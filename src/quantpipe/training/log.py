"""The seam between a training and whoever draws its curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import nn


class TrainingLog(Protocol):
    """What a training tells while it goes; steps are optimizer steps done, from 1."""

    def step(self, step: int, losses: Mapping[str, float], rates: Mapping[str, float]) -> None:
        """Takes the losses of a step, and the learning rates it was done with."""
        ...

    def validated(self, step: int, score: float, network: nn.Module) -> None:
        """Takes the score of a network in evaluation mode, and the network to draw examples."""
        ...


class NoLog:
    """A :class:`TrainingLog` that keeps nothing."""

    def step(self, step: int, losses: Mapping[str, float], rates: Mapping[str, float]) -> None:
        """Forgets them."""

    def validated(self, step: int, score: float, network: nn.Module) -> None:
        """Forgets it."""
