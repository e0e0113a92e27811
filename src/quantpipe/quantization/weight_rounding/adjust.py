"""Weights and biases fitted to INT8, in one pass through a network and its quantized copy.

Both run side by side on the two halves of one batch, and an operation is adjusted when the pass
reaches it: what it reads in INT8 has then been through all adjusted predecessors, and what it gives
in float is there to compare with.

* Integers: chosen anew by a :data:`~quantpipe.quantization.weight_rounding.problem.Rounding`.
* Bias: the mean difference of each output channel is taken off (Nagel et al., "Data-Free
  Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721, section 4.2,
  measured on images). It applies in INT8 only, and so belongs into the scale cache.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from quantpipe.errors import DataError, NumericalError
from quantpipe.progress import Progress, stop_if_asked
from quantpipe.quantization.records import SavedRecords
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.simulation.network import FakeQuantized, quantize, quantized_operations
from quantpipe.quantization.weight_rounding.codes import codes_of, weight_with_codes
from quantpipe.quantization.weight_rounding.matrix_form import matrix_form
from quantpipe.quantization.weight_rounding.problem import Rounding, rounding_problem

Network = TypeVar("Network", bound=nn.Module)

_CODES = "codes"


@dataclass(frozen=True, kw_only=True)
class RoundingChoice:
    """How to choose integers.

    Attributes:
        solve: The method.
        num_positions: Positions to compare at, for each operation.
        records: Where chosen integers are kept, so that a run that was stopped goes on from there.
        seed: Of the positions.
    """

    solve: Rounding
    num_positions: int
    records: SavedRecords
    seed: int


@dataclass(frozen=True, kw_only=True)
class Adjustment:
    """What was done to one operation.

    Attributes:
        num_weights: How many it has.
        num_moved: How many of them are rounded to another integer than the nearest.
        shift: By how much its outputs were off on average in INT8, as a share of their spread (root
            mean squares over channels).
    """

    num_weights: int
    num_moved: int
    shift: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Adjusted(Generic[Network]):
    """A network that is better for INT8.

    Attributes:
        network: Float, with weights that nearest rounding takes to the chosen integers.
        bias_corrections: For :class:`~quantpipe.quantization.scale_cache.ScaleCache`.
        operations: What was done to each, in execution order.
    """

    network: Network
    bias_corrections: Mapping[str, tuple[float, ...]]
    operations: Mapping[str, Adjustment]


def adjust_weights(
    network: Network,
    scales: ScaleCache,
    images: Tensor,
    *,
    rounding: RoundingChoice | None,
    correct_bias: bool,
    progress: Progress,
) -> Adjusted[Network]:
    """Chooses integers and bias corrections for the operations of a float network.

    Ordinary nearest rounding over the same scales gives the chosen integers; weights whose integer
    is as before are as before. An operation that is called more than once is adjusted to its first
    call; one that is no product of one matrix keeps its integers.

    All images pass at once: memory has to hold the largest tensors of the network for twice as
    many.

    Args:
        network: A deployed network in evaluation mode.
        scales: Its ranges; every operation that has one is taken to run in INT8. They hold no
            bias corrections yet.
        images: (N, 3, H, W) as the network takes them, not augmented.
        rounding: None keeps the nearest integers.
        correct_bias: Whether to correct biases.
        progress: Shows the operations.

    Raises:
        DataError: There is no image.
        NumericalError: An operation gives a NaN or an infinity.
        Interrupted: A signal asked to stop; integers that were chosen are kept.
    """
    assert not network.training
    assert not scales.bias_corrections
    if not len(images):
        raise DataError("there is no image to adjust the weights with")
    pair = quantize(network, scales).requires_grad_(False)
    operations = quantized_operations(pair)
    visit = _Visit(
        rounding=rounding,
        correct_bias=correct_bias,
        progress=progress,
        bar=iter(progress.track(operations, "adjusting weights")),
        done={},
        corrections={},
    )
    _set_side_by_side(pair, network, operations, visit)
    with torch.no_grad():
        pair(torch.cat([images, images]))
    for _ in visit.bar:
        pass  # the bar reaches its end
    return Adjusted(
        network=_with_weights(network, operations),
        bias_corrections=visit.corrections,
        operations=visit.done,
    )


def _set_side_by_side(
    pair: nn.Module, network: nn.Module, operations: Mapping[str, FakeQuantized], visit: _Visit
) -> None:
    """Sets beside each operation of ``pair``, in place, the same one of the float network."""
    for name, operation in operations.items():
        parent, _, leaf = name.rpartition(".")
        both = _SideBySide(name, network.get_submodule(name), operation, visit)
        setattr(pair.get_submodule(parent), leaf, both)


class _SideBySide(nn.Module):
    """An operation in float on the first half of a batch, and in INT8 on the second."""

    def __init__(self, name: str, exact: nn.Module, operation: FakeQuantized, visit: _Visit):
        super().__init__()
        self.name, self.exact, self.operation, self._visit = name, exact, operation, visit

    def forward(self, values: Tensor) -> Tensor:
        read_exact, read = values.chunk(2)
        expected = self.exact(read_exact)
        if self.name in self._visit.done:
            return torch.cat([expected, self.operation(read)])
        return torch.cat([expected, self._visit(self, read, expected)])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Visit:
    """Adjusts one operation after the other."""

    rounding: RoundingChoice | None
    correct_bias: bool
    progress: Progress
    bar: Iterator[str]
    done: dict[str, Adjustment]
    corrections: dict[str, tuple[float, ...]]

    def __call__(self, pair: _SideBySide, read: Tensor, expected: Tensor) -> Tensor:
        """Returns what the adjusted operation gives."""
        stop_if_asked(self.progress)
        next(self.bar, None)
        self.progress.status(pair.name)
        operation = pair.operation
        moved = 0 if self.rounding is None else self._round(pair, read, expected, self.rounding)
        given: Tensor = operation(read)
        shift, share = _mean_difference(pair.name, given, expected)
        if self.correct_bias and operation.bias is not None:
            operation.bias_correction = -shift
            self.corrections[pair.name] = tuple((-shift).tolist())
            given -= shift.view(-1, 1, 1)
        weights = 0 if operation.weight is None else operation.weight.numel()
        self.done[pair.name] = Adjustment(num_weights=weights, num_moved=moved, shift=share)
        return given

    def _round(
        self, pair: _SideBySide, read: Tensor, expected: Tensor, choice: RoundingChoice
    ) -> int:
        """Gives an operation better integers; returns how many of them are not the nearest."""
        weight, scale = pair.operation.weight, pair.operation.weight_scale
        form = matrix_form(pair.exact)
        if weight is None or scale is None or form is None:
            return 0
        codes = _recorded_codes(choice.records, pair.name, weight)
        if codes is None:
            problem = rounding_problem(
                pair.operation,
                form,
                read,
                expected,
                num_positions=choice.num_positions,
                seed=choice.seed + len(self.done),
            )
            codes = form.weight(choice.solve(problem)).to(torch.int8)
            choice.records.write(pair.name, {_CODES: codes.cpu().numpy()})
        moved = int((codes_of(weight, scale) != codes).sum())
        weight.copy_(weight_with_codes(weight, codes, scale))
        return moved


def _recorded_codes(records: SavedRecords, name: str, weight: Tensor) -> Tensor | None:
    """Integers that were chosen before, on the device of ``weight``; None where none fit it."""
    codes = (records.read(name) or {}).get(_CODES)
    if codes is None or codes.dtype != np.int8 or codes.shape != tuple(weight.shape):
        return None
    return torch.from_numpy(codes).to(weight.device)


def _mean_difference(name: str, given: Tensor, expected: Tensor) -> tuple[Tensor, float]:
    """Returns the mean difference per channel, and how large it is beside the outputs' spread."""
    pixels = (0, 2, 3)
    mean = expected.mean(dim=pixels, dtype=torch.float64)
    shift = given.mean(dim=pixels, dtype=torch.float64) - mean
    if not torch.isfinite(shift).all():
        finite = (torch.isfinite(expected) & torch.isfinite(given)).flatten(1).all(dim=1)
        which = [number for number, whole in enumerate(finite.tolist()) if not whole]
        raise NumericalError(
            f"image {which[0] if which else 0} of those that the weights are adjusted on gives a "
            f"NaN or an infinity in the outputs of operation '{name}'",
            hint="check this image and the weights of the operation",
        )
    spread = float(expected.var(dim=pixels, correction=0).mean().clamp_min(1e-30))
    share = float(shift.square().mean() / spread) ** 0.5
    return shift.to(given.dtype), share


def _with_weights(network: Network, operations: Mapping[str, FakeQuantized]) -> Network:
    """Returns a copy of a float network with the weights of the quantized operations."""
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for name, operation in operations.items():
            if operation.weight is not None:
                copied.get_parameter(f"{name}.weight").copy_(operation.weight)
    return copied
