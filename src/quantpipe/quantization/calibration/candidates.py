"""Chooses the range of each tensor among candidates by how its error degrades the outputs.

To first order an error e of a tensor changes a projection of the outputs by the sum of g e, with g
its gradient with respect to the tensor. Where errors are as good as independent the expected square
of that sum is sum(g^2 e^2): the Hessian by the diagonal of the empirical Fisher information (BRECQ,
Li et al., arXiv 2102.05426, equation 10). It follows from one histogram of magnitudes for each
tensor and image, weighted with g^2, whatever the number of candidates. (Adding up clipping errors,
which all point toward zero, before they are squared chose no better ranges on images not
calibrated on.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantpipe.errors import NumericalError
from quantpipe.progress import Progress, Silent, stop_if_asked
from quantpipe.quantization.calibration.collect import CalibrationMethod, Statistics, solve
from quantpipe.quantization.number_format import NumberFormat
from quantpipe.quantization.operations import Operation, StorageNames, operation_modules
from quantpipe.quantization.output_error import OutputError
from quantpipe.quantization.random_projection import projected, random_signs
from quantpipe.quantization.shared_ranges import unify

Floats = NDArray[np.float64]
Ranges = Mapping[str, float]
Found = Mapping[str, Floats]
Outputs = Callable[[nn.Module, Tensor], Sequence[Tensor]]

_NUM_BINS = 2048

_METHODS: Mapping[str, tuple[CalibrationMethod, float | None]] = {
    "max": ("max", None),
    "mse": ("mse", None),
    "entropy": ("entropy", None),
    "percentile 99.99": ("percentile", 99.99),
    "percentile 99.9": ("percentile", 99.9),
}
_SHARES_OF_MAX = {f"{share:g} max": share for share in (1.05, 0.9, 0.8, 0.7)}


def candidate_ranges(
    statistics: Statistics,
    groups: Sequence[frozenset[str]],
    *,
    number_format: NumberFormat,
    only: Collection[str] | None = None,
) -> dict[str, dict[str, float]]:
    """Returns what every method finds, and some shares of the maximum, by label and operation.

    Args:
        statistics: From :func:`~quantpipe.quantization.calibration.collect.collect`.
        groups: Operations that share a range; theirs are unified.
        number_format: That the tensors are rounded to.
        only: The labels that are needed; None: all.
    """
    found = {
        label: solve(
            statistics,
            method,
            number_format=number_format,
            percentile=percentile,
            progress=Silent(),
        )
        for label, (method, percentile) in _METHODS.items()
        if only is None or label in only
    }
    largest = solve(statistics, "max", number_format=number_format, progress=Silent())
    for label, share in _SHARES_OF_MAX.items():
        found[label] = {name: share * amax for name, amax in largest.items()}
    return {label: unify(amax, groups) for label, amax in found.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class RangeDegradations:
    """What each candidate range does to the outputs.

    Attributes:
        operations: In execution order.
        labels: Of the candidates.
        groups: The operations that share a range.
        values: (images, groups, candidates), the expected error of the outputs.
    """

    operations: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[frozenset[str], ...]
    values: Floats

    def least(self, drawn: NDArray[np.intp] | None = None) -> dict[str, str]:
        """Returns the label of the least degrading candidate for each operation, in their order.

        Args:
            drawn: (n,) numbers of the images that count; None: all, once.
        """
        values = self.values if drawn is None else self.values[drawn]
        best = values.sum(axis=0).argmin(axis=1)
        chosen = {
            name: self.labels[index]
            for group, index in zip(self.groups, best, strict=True)
            for name in group
        }
        # A group is a set: its order is another one in every process.
        return {name: chosen[name] for name in self.operations}


def chosen_ranges(candidates: Mapping[str, Ranges], labels: Mapping[str, str]) -> dict[str, float]:
    """Returns the range of each operation that its label names."""
    return {name: candidates[label][name] for name, label in labels.items()}


def range_degradations(
    network: nn.Module,
    operations: Sequence[Operation],
    groups: Sequence[frozenset[str]],
    candidates: Mapping[str, Ranges],
    batches: Iterable[Tensor],
    *,
    number_format: NumberFormat,
    outputs: Outputs,
    error: OutputError,
    seed: int,
    progress: Progress,
    total: int | None = None,
) -> RangeDegradations:
    """Runs every batch forward and backward once and weighs all candidates.

    Args:
        network: Float, in evaluation mode, on the device of the batches.
        operations: From :func:`~quantpipe.quantization.operations.find_operations`.
        groups: Operations that share a range, from
            :func:`~quantpipe.quantization.shared_ranges.concat_groups`; others have their own.
        candidates: From :func:`candidate_ranges`, by label; ``max`` is among them.
        batches: (B, 3, H, W) float images: those that gave ``max``.
        number_format: That the tensors are rounded to.
        outputs: Of a network on images, each (B, ...).
        error: Of the outputs, what is to be small.
        seed: Of the projection of the outputs.
        progress: Shows the batches.
        total: The number of batches, where known.

    Raises:
        NumericalError: A gradient is not finite.
        Interrupted: A signal asked to stop.
    """
    frozen = copy.deepcopy(network).requires_grad_(False)
    names = [operation.name for operation in operations]
    weighers = _weighers(names, candidates, number_format)
    every_group = _with_singles(groups, names)
    parts: list[Floats] = []
    num_images = 0
    for images in progress.track(batches, "weighing ranges", total=total):
        with _gradients(frozen, weighers) as found, torch.enable_grad():
            predictions = outputs(frozen, images.detach().clone().requires_grad_(True))
            signs = random_signs(predictions, num_images, 0, seed)
            projected(predictions, error, signs).backward()  # type: ignore[no-untyped-call]
        num_images += len(images)
        parts.append(np.stack([_of_group(group, found) for group in every_group], axis=1))
        stop_if_asked(progress)
    values = np.concatenate(parts)
    _require_finite(values)
    return RangeDegradations(
        operations=tuple(names), labels=tuple(candidates), groups=every_group, values=values
    )


def _weighers(
    names: Sequence[str], candidates: Mapping[str, Ranges], number_format: NumberFormat
) -> dict[str, _Weigher]:
    return {
        name: _Weigher(
            [ranges[name] for ranges in candidates.values()],
            candidates["max"][name],
            number_format.max_level,
        )
        for name in names
    }


def _with_singles(
    groups: Sequence[frozenset[str]], names: Sequence[str]
) -> tuple[frozenset[str], ...]:
    """The groups, and one for each operation that shares its range with none."""
    alone = set(names).difference(*groups)
    return (*groups, *(frozenset([name]) for name in names if name in alone))


def _require_finite(values: Floats) -> None:
    finite = np.isfinite(values).all(axis=(1, 2))
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise NumericalError(f"calibration image {bad} gives a gradient that is not finite")


def _of_group(group: frozenset[str], found: Found) -> Floats:
    """(images, candidates): the degradation to all of the group's tensors."""
    parts = [found[name] for name in sorted(group) if name in found]
    assert parts, f"no gradient reaches {sorted(group)}"
    degradation: Floats = np.sum(parts, axis=0)
    return degradation


class _Weigher:
    """Weighs the candidate ranges of one operation's input, given its values and gradients."""

    def __init__(self, ranges: Sequence[float], largest: float, max_level: int) -> None:
        """``ranges`` to weigh, on values up to ``largest``, for integers up to ``max_level``."""
        self._width = largest / _NUM_BINS
        # Zero lies in the middle of the first bin: integers represent it exactly.
        centers = self._width * np.arange(_NUM_BINS + 1)[:, None]
        steps = np.asarray(ranges) / max_level
        rounded = np.clip(np.round(centers / steps), 0, max_level) * steps
        self._squared_error = (rounded - centers) ** 2

    def __call__(self, values: Tensor, gradient: Tensor) -> Floats:
        """(B, ...) twice to (B, candidates)."""
        rows = [
            self._row(x.flatten(), g.flatten())
            for x, g in zip(values.float().cpu(), gradient.double().cpu(), strict=True)
        ]
        degradation: Floats = np.stack(rows) @ self._squared_error
        return degradation

    def _row(self, values: Tensor, gradient: Tensor) -> Floats:
        bins = (values.abs() / self._width).round_().clamp_(max=_NUM_BINS).to(torch.int32)
        weights: Floats = torch.bincount(
            bins, weights=gradient.square_(), minlength=_NUM_BINS + 1
        ).numpy()
        return weights


@contextmanager
def _gradients(network: nn.Module, weighers: Mapping[str, _Weigher]) -> Iterator[Found]:
    """Yields what the backward pass fills: the weighed errors of each distinct tensor, by reader.

    A tensor that several operations read is replaced by one alias for all of them, whose gradient
    is the sum of theirs: not that of what else becomes of the tensor.
    """
    names = StorageNames()
    aliases: dict[int, Tensor] = {}
    found: dict[str, Floats] = {}

    def keep(name: str, values: Tensor) -> Callable[[Tensor], None]:
        def weigh(gradient: Tensor) -> None:
            found[name] = found.get(name, 0.0) + weighers[name](values, gradient)

        return weigh

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def watch(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            number = names.tensor(inputs[0])
            if number not in aliases:
                aliases[number] = inputs[0].view_as(inputs[0])
                aliases[number].register_hook(keep(name, inputs[0].detach()))  # type: ignore[no-untyped-call]
            return (aliases[number],)

        return watch

    modules = operation_modules(network)
    handles = [modules[name].register_forward_pre_hook(hook(name)) for name in weighers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
