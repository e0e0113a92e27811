"""Cheap, label-free estimates of what INT8 does to each operation, with their standard errors.

``output`` measures: the noise that an operation quantized alone causes in the network's outputs.
``gradient`` predicts the same for all operations from one forward and one backward pass.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from quantpipe.errors import DataError, Interrupted, NumericalError
from quantpipe.progress import Progress
from quantpipe.quantization.fake_quantize import (
    FakeQuantized,
    only_quantized,
    quantize,
    quantized_operations,
)
from quantpipe.quantization.operations import Operation
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.sensitivity_table import (
    SensitivityMethod,
    SensitivityRow,
    SensitivityTable,
    sorted_table,
)

Outputs = Callable[[nn.Module, Tensor], Sequence[Tensor]]
Loss = Callable[[Sequence[Tensor], int], Tensor]


def network_outputs(network: nn.Module, images: Tensor) -> Sequence[Tensor]:
    """Returns the one output of ``network(images)``."""
    return (network(images),)


def output_sensitivity(
    network: nn.Module,
    scales: ScaleCache,
    operations: Sequence[Operation],
    batches: Iterable[Tensor],
    *,
    outputs: Outputs = network_outputs,
    progress: Progress,
    total: int | None = None,
) -> SensitivityTable:
    """Ranks operations by the noise that each alone in INT8 causes in the network's outputs.

    The score is the mean over images of noise power / signal power (the inverse of the SQNR),
    averaged over the outputs so that logits and distances weigh the same.

    Args:
        network: A deployed float network in evaluation mode.
        scales: Its ranges.
        operations: Those to rank, in execution order.
        batches: (B, 3, H, W) float images, RGB 0..1.
        outputs: Raw outputs to compare, each (B, ...).
        progress: Shows the batches.
        total: The number of batches, where known.

    Raises:
        DataError: There is no image.
        NumericalError: An output is not finite.
        Interrupted: A signal asked to stop.
    """
    quantized = quantize(network, scales).requires_grad_(False)
    noise: dict[str, list[float]] = {operation.name: [] for operation in operations}
    for images in progress.track(batches, "sensitivity", total=total):
        with only_quantized(quantized, ()):
            reference = outputs(quantized, images)
        for name, values in noise.items():
            with only_quantized(quantized, (name,)):
                values += _noise_to_signal(outputs(quantized, images), reference)
        if progress.should_stop():
            raise Interrupted(signal.SIGTERM)
    return _ranked("output", noise, scales.weights_digest)


def _noise_to_signal(noisy: Sequence[Tensor], reference: Sequence[Tensor]) -> list[float]:
    ratios = []
    for changed, original in zip(noisy, reference, strict=True):
        difference, signal_part = (changed - original).flatten(1), original.flatten(1)
        power = signal_part.double().square().mean(dim=1).clamp_min(1e-30)
        ratios.append(difference.double().square().mean(dim=1) / power)
    return [float(value) for value in torch.stack(ratios).mean(dim=0)]


def output_projection(seed: int) -> Loss:
    """Returns a label-free loss whose expected squared gradient predicts the output noise.

    For n outputs y of an image, L = sum over outputs of v . y / (|y| sqrt(n)), v standard normal.
    Then for a change d of an intermediate tensor with Jacobian J, E[(dL)^2] = the mean over outputs
    of |J d|^2 / |y|^2: the noise-to-signal ratio to first order (Hutchinson's estimator).

    Args:
        seed: Of v; drawn on the processor, so equal on every device.
    """

    def loss(predictions: Sequence[Tensor], batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed + batch)
        terms = []
        for output in predictions:
            direction = torch.randn(output.shape, generator=generator).to(output.device)
            power = output.detach().flatten(1).square().sum(dim=1).clamp_min(1e-30)
            terms.append(((output * direction).flatten(1).sum(dim=1) / power.sqrt()).sum())
        return torch.stack(terms).sum() / math.sqrt(len(terms))

    return loss


def gradient_sensitivity(
    network: nn.Module,
    scales: ScaleCache,
    operations: Sequence[Operation],
    batches: Iterable[Tensor],
    *,
    loss: Loss,
    outputs: Outputs = network_outputs,
    progress: Progress,
    total: int | None = None,
) -> SensitivityTable:
    """Ranks operations by the second-order damage that their quantization does to a loss.

    The score of an operation with output z is the mean over images of sum((dL/dz)^2 (z_q - z)^2),
    with z_q the output of the operation in INT8: the Hessian by the diagonal of the empirical
    Fisher information (BRECQ, Li et al., arXiv 2102.05426, equation 10).

    Args:
        network: A deployed float network in evaluation mode.
        scales: Its ranges.
        operations: Those to rank, in execution order.
        batches: (B, 3, H, W) float images, RGB 0..1.
        loss: Maps the outputs and the number of the batch to a scalar that is a *sum* over the
            images; :func:`output_projection` needs no labels.
        outputs: What the loss sees, each (B, ...).
        progress: Shows the batches.
        total: The number of batches, where known.

    Raises:
        DataError: There is no image.
        NumericalError: A gradient is not finite.
        Interrupted: A signal asked to stop.
    """
    quantized = quantize(network, scales).requires_grad_(False)
    modules = quantized_operations(quantized)
    damage: dict[str, list[float]] = {operation.name: [] for operation in operations}
    for number, images in enumerate(progress.track(batches, "sensitivity", total=total)):
        sums = {name: torch.zeros(len(images), dtype=torch.float64) for name in damage}
        handles = [modules[name].register_forward_hook(_damage_hook(sums[name])) for name in damage]
        with only_quantized(quantized, ()), torch.enable_grad():
            predictions = outputs(quantized, images.detach().clone().requires_grad_(True))
            loss(predictions, number).backward()  # type: ignore[no-untyped-call]
        for handle in handles:
            handle.remove()
        for name, values in sums.items():
            damage[name] += values.tolist()
        if progress.should_stop():
            raise Interrupted(signal.SIGTERM)
    return _ranked("gradient", damage, scales.weights_digest)


def _damage_hook(
    sums: Tensor,
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, FakeQuantized)
        with torch.no_grad():
            error = module.quantized(inputs[0]) - output

        def weigh(gradient: Tensor) -> None:
            squares = (gradient * error).flatten(1).double().square().sum(dim=1)
            sums.add_(squares.cpu())

        output.register_hook(weigh)  # type: ignore[no-untyped-call]

    return watch


def _ranked(
    method: SensitivityMethod, values: dict[str, list[float]], weights_digest: str
) -> SensitivityTable:
    rows = [_row(name, scores) for name, scores in values.items()]
    return sorted_table(method, rows, baseline=None, weights_digest=weights_digest)


def _row(name: str, scores: list[float]) -> SensitivityRow:
    if not scores:
        raise DataError("there is no image to rank the operations with")
    if bad := [index for index, value in enumerate(scores) if not math.isfinite(value)]:
        raise NumericalError(f"image {bad[0]} gives a NaN or an infinity for operation '{name}'")
    values = torch.tensor(scores, dtype=torch.float64)
    # One image says nothing about the spread.
    error = float(values.std() / math.sqrt(len(scores))) if len(scores) > 1 else None
    return SensitivityRow(name=name, score=float(values.mean()), standard_error=error)
