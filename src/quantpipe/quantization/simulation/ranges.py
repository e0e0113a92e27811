"""Where the ranges of a fake-quantized network come from, and what becomes of them in training.

``Fixed`` ranges stay as calibrated: the published rule. ``Learned`` ranges are parameters (LSQ).
``Averaged`` activation ranges follow the largest magnitudes of the training batches by an
exponential moving average (Jacob et al., arXiv 1712.05877, section 3.1), then stay where they are
for the last part of the training, while weight ranges always are the largest weights.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, cast, final

import torch
from torch import Tensor, nn

from quantpipe.quantization.scale_cache import TensorScale
from quantpipe.quantization.simulation.learned_step import learned_fake_quantize
from quantpipe.quantization.simulation.rounding import channel_amax, fake_quantize

# No range falls below this part of the calibrated one, where all but the largest values that
# calibration saw would be clipped: ranges stay positive.
_SMALLEST = 2.0**-7


class Range(nn.Module, ABC):
    """The range of one tensor, or of several that meet in a concat, and rounding to it."""

    def __init__(self, scale: TensorScale):
        super().__init__()
        self.axis = scale.axis
        self.number_format = scale.number_format

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """Rounds to the codes of the range; any shape."""

    @abstractmethod
    def amax(self, weight: Tensor | None) -> Tensor:
        """The range of this moment, (C,) or (1,); of ``weight`` where it is a weight's."""

    @abstractmethod
    def published(self, scale: TensorScale, weight: Tensor | None) -> TensorScale:
        """The same, to deploy with in place of the calibrated ``scale``."""


@final
class FixedRange(Range):
    """Stays as calibrated, and is no part of a state dict."""

    def __init__(self, scale: TensorScale):
        super().__init__(scale)
        self.register_buffer("_amax", torch.tensor(scale.amax), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Rounds to the calibrated range."""
        return fake_quantize(values, self.amax(values), self.axis, self.number_format)

    def amax(self, weight: Tensor | None) -> Tensor:  # noqa: ARG002
        """The calibrated range."""
        return cast(Tensor, self._amax)

    def published(self, scale: TensorScale, weight: Tensor | None) -> TensorScale:  # noqa: ARG002
        """Returns ``scale``."""
        return scale


@final
class FollowingRange(Range):
    """The largest magnitude of the weights now; the calibrated one where all are zero."""

    def __init__(self, scale: TensorScale):
        super().__init__(scale)
        self.register_buffer("_calibrated", torch.tensor(scale.amax), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Rounds weights to their own largest magnitudes."""
        return fake_quantize(values, self.amax(values), self.axis, self.number_format)

    def amax(self, weight: Tensor | None) -> Tensor:
        """The largest magnitudes of ``weight``."""
        assert weight is not None
        current = channel_amax(weight, self.axis)
        return torch.where(current > 0, current, cast(Tensor, self._calibrated))

    def published(self, scale: TensorScale, weight: Tensor | None) -> TensorScale:
        """The same, as method "max"."""
        return _replaced(scale, self.amax(weight), "max")


@final
class LearnedRange(Range):
    """A step size that is a parameter.

    Attributes:
        step: (C,) or (1,); amax / the largest level of the format.
        lr_factor: Multiplies its gradient, which to SGD is a factor on its learning rate.
    """

    def __init__(self, scale: TensorScale, lr_factor: float):
        super().__init__(scale)
        self.lr_factor = lr_factor
        self._is_activation = scale.kind == "activation"
        step = torch.tensor(scale.amax) / scale.number_format.max_level
        self.step = nn.Parameter(step)
        self.register_buffer("_floor", step * _SMALLEST, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Rounds with a gradient for the step."""
        sharing = len(values) if self._is_activation else len(self.step)
        return learned_fake_quantize(
            values,
            self.step,
            self.axis,
            self.number_format,
            num_values=values.numel() // sharing,
            lr_factor=self.lr_factor,
        )

    def amax(self, weight: Tensor | None) -> Tensor:  # noqa: ARG002
        """The step times the largest level."""
        return self.step.detach() * self.number_format.max_level

    def published(self, scale: TensorScale, weight: Tensor | None) -> TensorScale:
        """The same, as method "learned"."""
        return _replaced(scale, self.amax(weight), "learned")

    @torch.no_grad()
    def keep_positive(self) -> None:
        """Undoes what an optimizer step may have done to a step size."""
        self.step.clamp_(min=cast(Tensor, self._floor))


@final
class AveragedRange(Range):
    """The moving average of the largest magnitudes that training steps saw.

    Attributes:
        seen: (1,), the largest magnitude since the last :meth:`follow`; 0 before the first value.
    """

    def __init__(self, scale: TensorScale, decay: float, frozen_fraction: float):
        super().__init__(scale)
        self._decay = decay
        self._frozen_fraction = frozen_fraction
        amax = torch.tensor(scale.amax)
        self.register_buffer("average", amax)
        self.register_buffer("_floor", amax * _SMALLEST, persistent=False)
        self.register_buffer("seen", torch.zeros_like(amax), persistent=False)
        self.seen: Tensor
        self.average: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """Rounds to the average; in training, looks at the values first."""
        if self.training:
            self._look_at(values.detach())
        return fake_quantize(values, self.average, self.axis, self.number_format)

    def amax(self, weight: Tensor | None) -> Tensor:  # noqa: ARG002
        """The average."""
        return self.average

    def published(self, scale: TensorScale, weight: Tensor | None) -> TensorScale:
        """The same, as method "ema"."""
        return _replaced(scale, self.amax(weight), "ema")

    @torch.no_grad()
    def follow(self, largest: Tensor, *, done: float) -> None:
        """Moves to ``average * decay + largest * (1 - decay)``, unless frozen; forgets ``seen``.

        Args:
            largest: (), of all that a step saw on all ranks.
            done: The part of the training that is over.
        """
        self.seen.zero_()
        if done <= 1.0 - self._frozen_fraction:
            self.average.lerp_(largest, 1.0 - self._decay).clamp_(min=cast(Tensor, self._floor))

    @torch.no_grad()
    def _look_at(self, values: Tensor) -> None:
        # Two passes that are vectorized on processors, where aminmax is not.
        largest = torch.maximum(values.amax(), -values.amin())
        self.seen.copy_(torch.maximum(self.seen, largest.float()))


def _replaced(scale: TensorScale, amax: Tensor, method: str) -> TensorScale:
    return dataclasses.replace(scale, amax=tuple(amax.tolist()), method=method)


class RangeRule(Protocol):
    """Makes the ranges of a network out of its calibrated ones."""

    def of_input(self, scale: TensorScale) -> Range:
        """The range of an activation."""
        ...

    def of_weight(self, scale: TensorScale) -> Range:
        """The range of a weight."""
        ...


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """All ranges stay as calibrated."""

    def of_input(self, scale: TensorScale) -> Range:
        """A range that stays."""
        return FixedRange(scale)

    def of_weight(self, scale: TensorScale) -> Range:
        """A range that stays."""
        return FixedRange(scale)


@dataclass(frozen=True, kw_only=True)
class Learned:
    """All ranges are parameters.

    Attributes:
        lr_factor: Times the learning rate of the weights.
    """

    lr_factor: float

    def of_input(self, scale: TensorScale) -> Range:
        """A range with a gradient."""
        return LearnedRange(scale, self.lr_factor)

    def of_weight(self, scale: TensorScale) -> Range:
        """Ranges with a gradient."""
        return LearnedRange(scale, self.lr_factor)


@dataclass(frozen=True, kw_only=True)
class Averaged:
    """Activation ranges are averages of batch maxima, weight ranges the largest weights.

    Attributes:
        decay: Of the average, at each optimizer step.
        frozen_fraction: The last part of the training, in which activation ranges stay.
    """

    decay: float
    frozen_fraction: float

    def of_input(self, scale: TensorScale) -> Range:
        """A range that follows the batches."""
        return AveragedRange(scale, self.decay, self.frozen_fraction)

    def of_weight(self, scale: TensorScale) -> Range:
        """Ranges that follow the weights."""
        return FollowingRange(scale)
