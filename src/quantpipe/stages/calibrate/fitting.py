"""Biases and integers of a detector fitted to INT8 on images of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

import torch

from quantpipe.core.stage import Context
from quantpipe.data.batches import float_batches, sample
from quantpipe.data.dataset import DetectionDataset
from quantpipe.detector.families.implementation import DetectorNetwork
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.files import canonical_json, sha256_bytes
from quantpipe.quantization.records import SavedRecords
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.weight_rounding.adjust import Adjusted, RoundingChoice, adjust_weights
from quantpipe.quantization.weight_rounding.hessian import hessian_rounding
from quantpipe.quantization.weight_rounding.problem import Rounding
from quantpipe.stages.calibrate.config import AdjustmentSettings, WeightRounding


class Fitted(NamedTuple):
    """A float network, its ranges with bias corrections, and what was done, for the metrics."""

    network: DetectorNetwork
    scales: ScaleCache
    metrics: Mapping[str, Any]


def fit_to_int8(
    network: DetectorNetwork,
    scales: ScaleCache,
    dataset: DetectionDataset,
    *,
    specification: InputSpecification,
    batch_size: int,
    bias_correction: bool,
    weight_rounding: WeightRounding,
    settings: AdjustmentSettings,
    context: Context,
) -> Fitted:
    """Does as the settings say, on some images of the data set; or nothing, where they say so.

    The ranges stay those of the weights as they came: what comes back still names their digest.
    """
    if not bias_correction and weight_rounding == "nearest":
        return Fitted(network, scales, {})
    chosen = sample(len(dataset.images), settings.num_images, context.seed)
    batches = float_batches(
        dataset, chosen, specification=specification, batch_size=batch_size, device=context.device
    )
    decided_by = {
        "scales": scales.to_document(),
        "images": dataset.subset(chosen).fingerprint(),
        "settings": asdict(settings),
        "bias_correction": bias_correction,
        "weight_rounding": weight_rounding,
        "seed": context.seed,
    }
    result = adjust_weights(
        network,
        scales,
        torch.cat(list(batches)),
        rounding=_choice(weight_rounding, bias_correction, settings, decided_by, context),
        correct_bias=bias_correction,
        progress=context.progress,
    )
    metrics = {"adjusted_to_images": len(chosen), **_totals(result)}
    context.progress.note(f"{context.step}: {_summary(metrics)}")
    return Fitted(
        result.network, replace(scales, bias_corrections=result.bias_corrections), metrics
    )


def _choice(
    method: WeightRounding,
    free_bias: bool,
    settings: AdjustmentSettings,
    decided_by: Mapping[str, Any],
    context: Context,
) -> RoundingChoice | None:
    solvers: Mapping[WeightRounding, Rounding | None] = {
        "nearest": None,
        "hessian": partial(hessian_rounding, damping=settings.damping, free_bias=free_bias),
    }
    solve = solvers[method]
    if solve is None:
        return None
    records = SavedRecords(
        folder=context.progress_folder / "codes",
        identity=sha256_bytes(canonical_json(decided_by).encode()),
    )
    return RoundingChoice(
        solve=solve, num_positions=settings.num_positions, records=records, seed=context.seed
    )


def _totals(result: Adjusted[DetectorNetwork]) -> dict[str, Any]:
    operations = result.operations.values()
    return {
        "biases_corrected": sum(len(values) for values in result.bias_corrections.values()),
        "num_weights": sum(operation.num_weights for operation in operations),
        "weights_rounded_otherwise": sum(operation.num_moved for operation in operations),
        "mean_shift": sum(operation.shift for operation in operations) / max(1, len(operations)),
    }


def _summary(metrics: Mapping[str, Any]) -> str:
    return (
        f"fitted to INT8 on {metrics['adjusted_to_images']} images: "
        f"{metrics['biases_corrected']} biases corrected, "
        f"{metrics['weights_rounded_otherwise']} of {metrics['num_weights']} weights rounded to "
        f"another integer than the nearest"
    )
