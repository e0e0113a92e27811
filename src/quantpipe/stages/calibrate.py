"""Ranges for every operation, from unaugmented images, into the scale cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.schema import Between
from quantpipe.core.stage import Context, Inputs, Metrics, Output, Outputs, Stage, takes
from quantpipe.errors import ArtifactError, ConfigurationError
from quantpipe.files import sha256_file
from quantpipe.settings.adjustment import AdjustmentSettings, WeightRounding
from quantpipe.settings.data import DataSettings, Split, check_data, data_content, open_split
from quantpipe.settings.device import resolve_device
from quantpipe.settings.recipe import BatchSize
from quantpipe.settings.trainer import TrainerSettings, check_ranks

if TYPE_CHECKING:
    from quantpipe.assembly.calibration import CalibrationImages
    from quantpipe.detector.network import Detector
    from quantpipe.quantization.operations import Operation
    from quantpipe.quantization.range_intervals import Solve
    from quantpipe.quantization.scale_cache import TensorScale


Method = Literal["max", "percentile", "entropy", "mse", "auto"]
_LEAVE_OUT = "leave one of the two out"


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """Settings of the stage; see ``conf/stage/calibrate.yaml``."""

    trainer: TrainerSettings
    data: DataSettings
    split: Split
    method: Method | None
    percentile: Annotated[float | None, Between(0, 100, open_low=True)]
    weight_method: Literal["max", "mse"]
    num_images: Annotated[int, Between(1)]
    batch_size: BatchSize
    implementation: Literal["quantpipe", "toolkit"]
    from_checkpoint: Path | None
    bootstrap: Annotated[int, Between(0, 100_000)]
    max_spread: Annotated[float, Between(0, open_low=True)]
    bias_correction: bool
    weight_rounding: WeightRounding
    adjustment: AdjustmentSettings

    def __post_init__(self) -> None:
        if self.method == "percentile" and self.percentile is None:
            raise ConfigurationError(
                "is not set", path="percentile", hint="give one, as in calibrate.percentile=99.99"
            )
        if self.method not in (None, "percentile") and self.percentile is not None:
            raise ConfigurationError(
                f"{self.percentile:g} means nothing to method={self.method}",
                path="percentile",
                hint=_LEAVE_OUT,
            )
        if self.bootstrap == 1:
            raise ConfigurationError(
                "one resample has no spread", path="bootstrap", hint="take 200, or 0 for none"
            )
        if self.from_checkpoint is not None or self.implementation == "toolkit":
            self._refuse_what_images_must_be_counted_for()

    def _refuse_what_images_must_be_counted_for(self) -> None:
        key = "implementation" if self.from_checkpoint is None else "from_checkpoint"
        if self.method == "auto":
            raise ConfigurationError(
                f"auto does not go with {key}={getattr(self, key)}", path="method", hint=_LEAVE_OUT
            )
        if self.bootstrap:
            raise ConfigurationError(
                f"{self.bootstrap} resamples do not go with {key}={getattr(self, key)}",
                path="bootstrap",
                hint=_LEAVE_OUT,
            )


def method_of(config: CalibrateConfig) -> Method:
    """The method that is set, or else percentile where one is given, and max where none is."""
    return config.method or ("max" if config.percentile is None else "percentile")


def check(config: CalibrateConfig) -> None:
    """Finds missing data and files, and what the toolkit cannot do on a processor."""
    check_data(config.data)
    check_ranks(config.batch_size, config.trainer)
    given = config.from_checkpoint
    if given is not None and not given.is_file():
        raise ArtifactError("is not there", path=given, hint="see calibrate.from_checkpoint")
    by_toolkit = config.implementation == "toolkit" and config.method == "mse"
    if by_toolkit and resolve_device("auto") != "cuda":
        raise ConfigurationError(
            "the toolkit searches the least squared error on CUDA only",
            path="implementation",
            hint="take calibrate.implementation=quantpipe",
        )


def content(config: CalibrateConfig, memo: Path) -> Mapping[str, Any]:
    """The images, and the file that the configuration names."""
    named: dict[str, Any] = {"data": data_content(config.data, (config.split,), memo)}
    if config.from_checkpoint is not None:
        named["from_checkpoint"] = sha256_file(config.from_checkpoint)
    return named


def run(config: CalibrateConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Folds BatchNorm, collects ranges, fits to INT8, writes checkpoint and scales."""
    import torch

    from quantpipe.assembly.adjustment import fit_to_int8
    from quantpipe.assembly.calibration import CalibrationImages
    from quantpipe.assembly.images import sample
    from quantpipe.assembly.networks import require_classes, with_weights
    from quantpipe.detector.checkpoint import load_checkpoint, restore_detector, save_checkpoint
    from quantpipe.detector.network import fold_batch_norm
    from quantpipe.quantization.graph import concat_groups, unify
    from quantpipe.quantization.operations import find_operations
    from quantpipe.quantization.public_ranges import METHOD
    from quantpipe.quantization.scale_cache import build_scale_cache, save_scales

    source = inputs["checkpoint"].path
    trained = load_checkpoint(source)
    dataset = open_split(config.data, config.split, context)
    require_classes(trained, dataset.class_names, source)
    network = restore_detector(trained)
    network = network if trained.form == "deploy" else fold_batch_norm(network)
    network = network.to(context.device).eval()
    checkpoint = with_weights(trained, network, form="deploy")

    size = trained.image_size
    example = torch.zeros(1, 3, size, size, device=context.device)
    operations = find_operations(network, example)
    chosen = sample(len(dataset.images), config.num_images, context.seed)
    images = CalibrationImages(
        dataset=dataset,
        chosen=chosen,
        image_size=size,
        batch_size=config.batch_size,
    )
    method = METHOD if config.from_checkpoint is not None else method_of(config)
    amax, weights = _ranges(
        config, network, operations, images, checkpoint.weights_digest, outputs, context
    )
    cache = build_scale_cache(
        unify(amax, concat_groups(network, example)),
        weights,
        method=method,
        weights_digest=checkpoint.weights_digest,
        data_digest=dataset.subset(chosen).fingerprint(None),
        preprocessing={"image_size": size, "resize": "letterbox", "pad_value": 114},
    )
    fitted = fit_to_int8(
        network,
        cache,
        dataset.subset(chosen),
        image_size=size,
        batch_size=config.batch_size,
        bias_correction=config.bias_correction,
        weight_rounding=config.weight_rounding,
        settings=config.adjustment,
        context=context,
    )
    checkpoint = with_weights(checkpoint, fitted.network)
    save_checkpoint(outputs["checkpoint"], checkpoint)
    cache = replace(fitted.scales, weights_digest=checkpoint.weights_digest)
    save_scales(outputs["scales"], cache)
    return {
        "num_images": len(chosen),
        "num_operations": len(amax),
        "method": method,
        **fitted.metrics,
    }


def _ranges(
    config: CalibrateConfig,
    network: Detector,
    operations: Sequence[Operation],
    images: CalibrationImages,
    weights_digest: str,
    outputs: Outputs,
    context: Context,
) -> tuple[dict[str, float], dict[str, TensorScale]]:
    """Ranges of inputs and weights: of a calibrated checkpoint, or from images."""
    from quantpipe.quantization.public_ranges import read_public_ranges
    from quantpipe.quantization.weight_ranges import weight_scales

    progress = context.progress
    if config.from_checkpoint is None:
        return (
            _activation_ranges(
                config, network, operations, images, weights_digest, outputs, context
            ),
            weight_scales(network, operations, config.weight_method, progress=progress),
        )
    found = read_public_ranges(config.from_checkpoint, network, operations)
    if found.missing:
        progress.note(
            f"{context.step}: {config.from_checkpoint.name} leaves {len(found.missing)} operations "
            f"in float: {', '.join(found.missing[:4])}" + (", ..." if found.missing[4:] else "")
        )
    return found.activations, found.weights


def _activation_ranges(
    config: CalibrateConfig,
    network: Detector,
    operations: Sequence[Operation],
    images: CalibrationImages,
    weights_digest: str,
    outputs: Outputs,
    context: Context,
) -> dict[str, float]:
    from quantpipe.assembly.calibration import counted, solver
    from quantpipe.quantization.toolkit import toolkit_amax

    method = method_of(config)
    if config.implementation == "toolkit":
        assert method != "auto"
        return toolkit_amax(
            network,
            operations,
            images.batches(context.device),
            method=method,
            percentile=config.percentile,
            image_names=images.names,
            progress=context.progress,
            total=images.num_batches,
        )
    statistics = counted(
        network,
        operations,
        images,
        weights_digest=weights_digest,
        by_image=config.bootstrap > 0,
        num_ranks=config.trainer.devices,
        timeout_seconds=config.trainer.timeout_s,
        context=context,
    )
    solve = solver(
        network,
        operations,
        images,
        statistics,
        method=method,
        percentile=config.percentile,
        context=context,
    )
    amax = solve(None)
    if config.bootstrap:
        _report_intervals(config, amax, solve, len(images.chosen), outputs["ranges"], context)
    return amax


def _report_intervals(
    config: CalibrateConfig,
    amax: Mapping[str, float],
    solve: Solve,
    num_images: int,
    path: Path,
    context: Context,
) -> None:
    from quantpipe.quantization.range_intervals import (
        bootstrap_ranges,
        describe_flagged,
        save_intervals,
    )

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


STAGE = Stage(
    name="calibrate",
    version=2,
    config_type=CalibrateConfig,
    inputs={"checkpoint": takes(ArtifactKind.CHECKPOINT)},
    outputs={
        "checkpoint": Output(kind=ArtifactKind.CHECKPOINT, file="checkpoint.safetensors"),
        "scales": Output(kind=ArtifactKind.SCALES, file="scales.json"),
        "ranges": Output(kind=ArtifactKind.RANGES, file="ranges.json", required=False),
    },
    run=run,
    check=check,
    content=content,
)
