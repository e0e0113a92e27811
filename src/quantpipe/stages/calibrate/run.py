"""Ranges for every operation, from unaugmented images, into the scale cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from quantpipe.core.stage import Context, Inputs, Metrics, Outputs
from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_family import as_deployed, implementation_of, restore_detector
from quantpipe.detector.checkpoint_file import load_checkpoint
from quantpipe.detector.families.implementation import DetectorNetwork
from quantpipe.errors import ArtifactError
from quantpipe.quantization.calibration.bootstrap import (
    Solve,
    bootstrap_ranges,
    describe_flagged,
    save_intervals,
)
from quantpipe.quantization.calibration.pytorch_quantization import pytorch_quantization_amax
from quantpipe.quantization.calibration.weights import weight_scales
from quantpipe.quantization.model import require_classes, save_model, with_weights
from quantpipe.quantization.number_format import CALIBRATED
from quantpipe.quantization.operations import Operation, find_operations
from quantpipe.quantization.scale_cache import ScaleCache, TensorScale, build_scale_cache
from quantpipe.quantization.shared_ranges import concat_groups, unify
from quantpipe.settings.data import choose_images, open_split
from quantpipe.stages.calibrate.config import CalibrateConfig, method_of
from quantpipe.stages.calibrate.fitting import fit_to_int8
from quantpipe.stages.calibrate.released_ranges import METHOD, read_released_ranges
from quantpipe.stages.calibrate.statistics import (
    CalibrationImages,
    RangeSolver,
    collect_statistics,
    range_solver,
)


def run(config: CalibrateConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Folds BatchNorm, collects ranges, fits to INT8, writes checkpoint and scales."""
    source = inputs["model"].path
    trained = load_checkpoint(source)
    dataset = open_split(config.data, config.split, context)
    require_classes(trained, dataset.class_names, source)
    checkpoint = as_deployed(trained)
    network = restore_detector(checkpoint).to(context.device)

    chosen = choose_images(dataset, config.num_images, context)
    images = CalibrationImages(
        dataset=dataset,
        chosen=chosen,
        specification=trained.input,
        batch_size=config.batch_size,
    )
    method = METHOD if config.from_checkpoint is not None else method_of(config)
    cache = _scales(config, network, images, checkpoint, method, outputs, context)
    fitted = fit_to_int8(
        network,
        cache,
        dataset.subset(chosen),
        specification=trained.input,
        batch_size=config.batch_size,
        bias_correction=config.bias_correction,
        weight_rounding=config.weight_rounding,
        settings=config.adjustment,
        context=context,
    )
    checkpoint = with_weights(checkpoint, fitted.network)
    cache = replace(fitted.scales, weights_digest=checkpoint.weights_digest)
    save_model(outputs["model"], checkpoint, cache, plan=None)
    return {
        "num_images": len(chosen),
        "num_operations": len(cache.operations()),
        "method": method,
        **fitted.metrics,
    }


def _scales(
    config: CalibrateConfig,
    network: DetectorNetwork,
    images: CalibrationImages,
    checkpoint: Checkpoint,
    method: str,
    outputs: Outputs,
    context: Context,
) -> ScaleCache:
    """The ranges of a network before anything is fitted to them."""
    example = torch.zeros(1, 3, *checkpoint.input.size, device=context.device)
    operations = find_operations(network, example)
    amax, weights = _ranges(config, network, operations, images, checkpoint, outputs, context)
    return build_scale_cache(
        unify(amax, concat_groups(network, example)),
        weights,
        method=method,
        weights_digest=checkpoint.weights_digest,
        data_digest=images.dataset.subset(images.chosen).fingerprint(),
        preprocessing=checkpoint.input.as_scalars(),
        number_format=CALIBRATED,
    )


def _ranges(
    config: CalibrateConfig,
    network: DetectorNetwork,
    operations: Sequence[Operation],
    images: CalibrationImages,
    checkpoint: Checkpoint,
    outputs: Outputs,
    context: Context,
) -> tuple[dict[str, float], dict[str, TensorScale]]:
    """Ranges of inputs and weights: of a calibrated checkpoint, or from images."""
    progress = context.progress
    if config.from_checkpoint is None:
        return (
            _activation_ranges(
                config, network, operations, images, checkpoint.weights_digest, outputs, context
            ),
            weight_scales(
                network,
                operations,
                config.weight_method,
                number_format=CALIBRATED,
                progress=progress,
            ),
        )
    released = implementation_of(checkpoint).released
    if released is None:
        raise ArtifactError(
            f"calibrated checkpoints of family {checkpoint.family} are not known",
            path=config.from_checkpoint,
            hint="set calibrate.from_checkpoint=null",
        )
    found = read_released_ranges(config.from_checkpoint, network, operations, released)
    for note in found.notes:
        progress.note(f"{context.step}: {note}")
    return found.activations, found.weights


def _activation_ranges(
    config: CalibrateConfig,
    network: DetectorNetwork,
    operations: Sequence[Operation],
    images: CalibrationImages,
    weights_digest: str,
    outputs: Outputs,
    context: Context,
) -> dict[str, float]:
    method = method_of(config)
    if config.implementation == "pytorch_quantization":
        assert method != "auto"
        return pytorch_quantization_amax(
            network,
            operations,
            images.batches(context.device),
            method=method,
            number_format=CALIBRATED,
            percentile=config.percentile,
            image_names=images.names,
            progress=context.progress,
            total=images.num_batches,
        )
    solve = _solver(config, network, operations, images, weights_digest, context)
    amax = solve(None)
    if config.bootstrap:
        _report_intervals(config, amax, solve, len(images.chosen), outputs["ranges"], context)
    return amax


def _solver(
    config: CalibrateConfig,
    network: DetectorNetwork,
    operations: Sequence[Operation],
    images: CalibrationImages,
    weights_digest: str,
    context: Context,
) -> RangeSolver:
    """What solves the ranges from statistics of the images, all or some of them."""
    statistics = collect_statistics(
        network,
        operations,
        images,
        weights_digest=weights_digest,
        by_image=config.bootstrap > 0,
        num_ranks=config.trainer.devices,
        timeout_seconds=config.trainer.timeout_s,
        context=context,
    )
    return range_solver(
        network,
        operations,
        images,
        statistics,
        method=method_of(config),
        number_format=CALIBRATED,
        percentile=config.percentile,
        context=context,
    )


def _report_intervals(
    config: CalibrateConfig,
    amax: Mapping[str, float],
    solve: Solve,
    num_images: int,
    path: Path,
    context: Context,
) -> None:
    intervals = bootstrap_ranges(
        amax,
        solve,
        num_images=num_images,
        count=config.bootstrap,
        max_spread=config.max_spread,
        seed=context.seed,
        progress=context.progress,
    )
    save_intervals(path, intervals, count=config.bootstrap, max_spread=config.max_spread)
    context.progress.note(f"{context.step}: {describe_flagged(intervals, config.max_spread)}")
