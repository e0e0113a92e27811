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

if TYPE_CHECKING:
    from torch import nn

    from quantpipe.data.dataset import DetectionDataset
    from quantpipe.quantization.operations import Operation
    from quantpipe.quantization.scale_cache import TensorScale


_STATISTICS, _STATISTICS_VERSION = "statistics.npz", 1

Method = Literal["max", "percentile", "entropy", "mse"]


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """Settings of the stage; see ``conf/stage/calibrate.yaml``."""

    data: DataSettings
    split: Split
    method: Method | None
    percentile: Annotated[float | None, Between(0, 100, open_low=True)]
    weight_method: Literal["max", "mse"]
    num_images: Annotated[int, Between(1)]
    batch_size: BatchSize
    implementation: Literal["quantpipe", "toolkit"]
    from_checkpoint: Path | None
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
                hint="leave one of the two out",
            )


def method_of(config: CalibrateConfig) -> Method:
    """The method that is set, or else percentile where one is given, and max where none is."""
    return config.method or ("max" if config.percentile is None else "percentile")


def check(config: CalibrateConfig) -> None:
    """Finds missing data and files, and what the toolkit cannot do on a processor."""
    check_data(config.data)
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
    method = METHOD if config.from_checkpoint is not None else method_of(config)
    amax, weights = _ranges(
        config, network, operations, dataset, chosen, size, checkpoint.weights_digest, context
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
    network: nn.Module,
    operations: Sequence[Operation],
    dataset: DetectionDataset,
    chosen: Sequence[int],
    image_size: int,
    weights_digest: str,
    context: Context,
) -> tuple[dict[str, float], dict[str, TensorScale]]:
    """Ranges of inputs and weights: of a calibrated checkpoint, or from images."""
    from quantpipe.quantization.public_ranges import read_public_ranges
    from quantpipe.quantization.weight_ranges import weight_scales

    progress = context.progress
    if config.from_checkpoint is None:
        return (
            _activation_ranges(
                config, network, operations, dataset, chosen, image_size, weights_digest, context
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
    network: nn.Module,
    operations: Sequence[Operation],
    dataset: DetectionDataset,
    chosen: Sequence[int],
    image_size: int,
    weights_digest: str,
    context: Context,
) -> dict[str, float]:
    from quantpipe.assembly.images import float_batches, num_batches
    from quantpipe.quantization.calibration import Statistics, collect, solve
    from quantpipe.quantization.statistics_file import load_statistics, save_statistics
    from quantpipe.quantization.toolkit import toolkit_amax

    batches = float_batches(
        dataset,
        chosen,
        image_size=image_size,
        batch_size=config.batch_size,
        device=context.device,
    )
    total = num_batches(len(chosen), config.batch_size)
    progress = context.progress

    def statistics() -> Statistics:
        return collect(network, operations, batches, progress=progress, total=total)

    if config.implementation == "toolkit":
        return toolkit_amax(
            network,
            operations,
            batches,
            method=method_of(config),
            percentile=config.percentile,
            progress=progress,
            total=total,
        )
    # One pass serves every method and percentile: a sweep counts once.
    named_by = {
        "statistics": _STATISTICS_VERSION,
        "weights": weights_digest,
        "images": dataset.subset(chosen).fingerprint(None),
        "image_size": image_size,
        "batch_size": config.batch_size,
        "device": context.device,
    }
    folder = context.materialise(
        named_by, lambda root: save_statistics(root / _STATISTICS, statistics())
    )
    found = load_statistics(folder / _STATISTICS)
    return solve(found, method_of(config), percentile=config.percentile, progress=progress)


STAGE = Stage(
    name="calibrate",
    version=2,
    config_type=CalibrateConfig,
    inputs={"checkpoint": takes(ArtifactKind.CHECKPOINT)},
    outputs={
        "checkpoint": Output(kind=ArtifactKind.CHECKPOINT, file="checkpoint.safetensors"),
        "scales": Output(kind=ArtifactKind.SCALES, file="scales.json"),
    },
    run=run,
    check=check,
    content=content,
)
