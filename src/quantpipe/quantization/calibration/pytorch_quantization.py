"""Activation ranges by NVIDIA's pytorch-quantization 2.1.3, the reference for this package's own.

The only importer of that library. Importing it replaces the handlers of the root logger and uses
functions that torch has deprecated, so it is imported on first use, with both contained.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from quantpipe.errors import MachineError
from quantpipe.progress import Progress
from quantpipe.quantization.calibration.collect import (
    CalibrationMethod,
    check_method,
    floor_dead,
    require_images,
    run_calibration,
)
from quantpipe.quantization.number_format import NumberFormat
from quantpipe.quantization.operations import Operation


def pytorch_quantization_amax(
    network: nn.Module,
    operations: Sequence[Operation],
    batches: Iterable[Tensor],
    *,
    method: CalibrationMethod,
    number_format: NumberFormat,
    percentile: float | None = None,
    image_names: Sequence[str] = (),
    progress: Progress,
    total: int | None = None,
) -> dict[str, float]:
    """Returns the amax of each operation's input from pytorch-quantization's calibrators.

    As :func:`~quantpipe.quantization.calibration.collect.collect` and ``solve`` in one;
    ``entropy`` takes seconds for every operation.

    Raises:
        MachineError: The library is not installed, or has no ``mse`` without CUDA.
        NumericalError: An operation read a NaN or an infinity.
    """
    check_method(method, percentile)
    if method == "mse" and not torch.cuda.is_available():
        raise MachineError(
            "pytorch-quantization searches the least squared error on CUDA only",
            hint="use calibrate.implementation=quantpipe, or another method",
        )
    calibrators = {
        operation.name: make_calibrator(method, number_format) for operation in operations
    }

    def observe(name: str, values: Tensor, first_image: int) -> None:  # noqa: ARG001
        # The library divides by the maximum of what it sees first.
        if name in calibrators and bool(values.any()):
            calibrators[name].collect(values)

    num_images = run_calibration(
        network, batches, observe, image_names=image_names, progress=progress, total=total
    )
    require_images(num_images)
    amax = {
        name: solve_calibrator(calibrator, method, percentile)
        for name, calibrator in progress.track(
            calibrators.items(), f"pytorch-quantization {method}", total=len(calibrators)
        )
    }
    return floor_dead(amax, number_format, progress)


def make_calibrator(method: CalibrationMethod, number_format: NumberFormat) -> Any:
    """Returns the library's calibrator for a method: signed, per tensor, its own defaults."""
    calib = pytorch_quantization_calibrators()
    if method == "max":
        return calib.MaxCalibrator(number_format.bits, None, unsigned=False)
    return calib.HistogramCalibrator(number_format.bits, None, unsigned=False)


def solve_calibrator(calibrator: Any, method: CalibrationMethod, percentile: float | None) -> float:
    """Returns what a calibrator finds, 0.0 where it saw nothing but zeros."""
    if method == "max":
        amax = calibrator.compute_amax()
    elif calibrator._calib_hist is None:
        amax = None
    elif method == "percentile":
        amax = calibrator.compute_amax(method, percentile=percentile)
    else:
        amax = calibrator.compute_amax(method)
    return 0.0 if amax is None else float(amax)


def pytorch_quantization_calibrators() -> ModuleType:
    """Returns ``pytorch_quantization.calib``.

    Raises:
        MachineError: It is not installed.
    """
    try:
        with _contained():
            from pytorch_quantization import calib
    except ImportError as error:
        raise MachineError(
            f"pytorch-quantization cannot be imported: {error}",
            hint="pip install pytorch-quantization==2.1.3",
        ) from error
    module: ModuleType = calib
    return module


@contextmanager
def _contained() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
