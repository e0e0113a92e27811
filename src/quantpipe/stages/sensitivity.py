"""Ranks the operations by what quantizing each does to the detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.schema import Between
from quantpipe.core.stage import Context, Inputs, Metrics, Output, Outputs, Stage, takes
from quantpipe.settings.data import DataSettings, Split, check_data, data_content, open_split
from quantpipe.settings.recipe import BatchSize

if TYPE_CHECKING:
    from torch import nn

    from quantpipe.assembly.networks import Loaded
    from quantpipe.data.dataset import DetectionDataset
    from quantpipe.quantization.operations import Operation
    from quantpipe.quantization.sensitivity_table import SensitivityTable


@dataclass(frozen=True, kw_only=True)
class SensitivityConfig:
    """Settings of the stage; see ``conf/stage/sensitivity.yaml``."""

    data: DataSettings
    split: Split
    method: Literal["map", "output", "gradient"]
    num_images: Annotated[int, Between(1)]
    batch_size: BatchSize


def content(config: SensitivityConfig, memo: Path) -> Mapping[str, Any]:
    """The images."""
    return {"data": data_content(config.data, (config.split,), memo)}


def run(config: SensitivityConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Writes the table, and for ``map`` the published text format beside it."""
    import torch

    from quantpipe.assembly.images import sample
    from quantpipe.assembly.networks import load_inputs
    from quantpipe.quantization.operations import find_operations
    from quantpipe.quantization.sensitivity_table import save_table, write_published_text

    loaded = load_inputs(inputs, context.device)
    size = loaded.checkpoint.image_size
    operations = find_operations(
        loaded.network, torch.zeros(1, 3, size, size, device=context.device)
    )
    dataset = open_split(config.data, config.split, context)
    chosen = sample(len(dataset.images), config.num_images, context.seed)
    table = _METHODS[config.method](config, loaded, operations, dataset.subset(chosen), context)
    save_table(outputs["table"], table)
    if config.method == "map":
        write_published_text(outputs["text"], table)
    return {"method": config.method, "num_operations": len(operations), "num_images": len(chosen)}


def _by_map(
    config: SensitivityConfig,
    loaded: Loaded,
    operations: Sequence[Operation],
    dataset: DetectionDataset,
    context: Context,
) -> SensitivityTable:
    from quantpipe.assembly.images import measure, predictor
    from quantpipe.progress import Silent
    from quantpipe.quantization.sensitivity import score_sensitivity

    assert loaded.scales is not None

    def score(network: nn.Module) -> tuple[float, float]:
        result, _ = measure(
            predictor(network, context.device),
            dataset,
            image_size=loaded.checkpoint.image_size,
            batch_size=config.batch_size,
            progress=Silent(),
            description="score",
        )
        return result.map50, result.map

    return score_sensitivity(
        loaded.network,
        loaded.scales,
        operations,
        score,
        progress=context.progress,
        progress_folder=context.progress_folder,
    )


def _by_noise(
    config: SensitivityConfig,
    loaded: Loaded,
    operations: Sequence[Operation],
    dataset: DetectionDataset,
    context: Context,
) -> SensitivityTable:
    from quantpipe.assembly.images import float_batches, num_batches
    from quantpipe.quantization.damage import (
        gradient_sensitivity,
        output_projection,
        output_sensitivity,
    )

    assert loaded.scales is not None
    images = range(len(dataset.images))
    batches = float_batches(
        dataset,
        images,
        image_size=loaded.checkpoint.image_size,
        batch_size=config.batch_size,
        device=context.device,
    )
    total = num_batches(len(images), config.batch_size)
    arguments = (loaded.network, loaded.scales, operations, batches)
    if config.method == "output":
        return output_sensitivity(
            *arguments, outputs=_raw_outputs, progress=context.progress, total=total
        )
    return gradient_sensitivity(
        *arguments,
        loss=output_projection(context.seed),
        outputs=_raw_outputs,
        progress=context.progress,
        total=total,
    )


def _raw_outputs(network: nn.Module, images: Any) -> Sequence[Any]:
    """Class logits and box distances: what decoding has not yet bent."""
    predict: Callable[[Any], Any] = network.predict  # type: ignore[assignment]
    prediction = predict(images)
    return prediction.class_logits, prediction.distances


_METHODS: Mapping[str, Callable[..., SensitivityTable]] = {
    "map": _by_map,
    "output": _by_noise,
    "gradient": _by_noise,
}

STAGE = Stage(
    name="sensitivity",
    version=1,
    config_type=SensitivityConfig,
    inputs={
        "checkpoint": takes(ArtifactKind.CHECKPOINT),
        "scales": takes(ArtifactKind.SCALES),
    },
    outputs={
        "table": Output(kind=ArtifactKind.SENSITIVITY, file="sensitivity.json"),
        "text": Output(kind=ArtifactKind.SENSITIVITY_TEXT, file="sensitivity.txt", required=False),
    },
    run=run,
    check=lambda config: check_data(config.data),
    content=content,
)
