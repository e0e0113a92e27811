"""Ranks the operations by what INT8 in each does to the detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.schema import Between, ExecutionOnly
from quantpipe.core.stage import Context, Inputs, Metrics, Output, Outputs, Stage, takes
from quantpipe.distributed.launch import require_size
from quantpipe.settings.data import DataSettings, Split, check_data, data_content, open_split
from quantpipe.settings.recipe import BatchSize, LossSettings, detection_loss

if TYPE_CHECKING:
    from quantpipe.quantization.sensitivity_table import SensitivityTable

_SURE = 0.7  # rankings of two halves below this correlation mostly reflect the choice of images


@dataclass(frozen=True, kw_only=True)
class SensitivityConfig:
    """Settings of the stage; see ``conf/stage/sensitivity.yaml``."""

    devices: Annotated[int, Between(1, 64), ExecutionOnly()]
    timeout_s: Annotated[float, Between(1), ExecutionOnly()]
    data: DataSettings
    split: Split
    method: Literal["map", "loss", "output", "gradient"]
    direction: Literal["only", "all_but"]
    num_images: Annotated[int, Between(1)]
    batch_size: BatchSize
    output_error: Literal["detections", "noise"]
    num_projections: Annotated[int, Between(1, 1000)]
    box_loss: Literal["giou", "siou"]
    loss: LossSettings


def check(config: SensitivityConfig) -> None:
    """Finds missing data, and ranks other than a launcher's."""
    check_data(config.data)
    require_size(config.devices)


def content(config: SensitivityConfig, memo: Path) -> Mapping[str, Any]:
    """The images."""
    return {"data": data_content(config.data, (config.split,), memo)}


def run(config: SensitivityConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Writes the table, and the published text format beside it where mAP was measured."""
    from quantpipe.quantization.sensitivity_table import save_table, write_published_text

    table = _ranked(config, inputs, context)
    save_table(outputs["table"], table)
    if table.method == "map" and table.direction == "only":
        write_published_text(outputs["text"], table)
    context.progress.note(f"{context.step}: {_worth(table)}")
    return {
        "method": table.method,
        "direction": table.direction,
        "num_operations": len(table.rows),
        "num_images": table.num_images,
        "reliability": table.reliability,
        "seconds": table.seconds,
        "passes": table.passes,
    }


def _ranked(config: SensitivityConfig, inputs: Inputs, context: Context) -> SensitivityTable:
    import torch

    from quantpipe.assembly.images import sample
    from quantpipe.assembly.networks import load_inputs
    from quantpipe.assembly.sensitivity import RankingJob, rank_together
    from quantpipe.quantization.operations import find_operations

    loaded = load_inputs(inputs, "cpu")
    assert loaded.scales is not None
    size = loaded.checkpoint.image_size
    dataset = open_split(config.data, config.split, context)
    job = RankingJob(
        method=config.method,
        direction=config.direction,
        network=loaded.network,
        scales=loaded.scales,
        operations=find_operations(loaded.network, torch.zeros(1, 3, size, size)),
        dataset=dataset.subset(sample(len(dataset.images), config.num_images, context.seed)),
        image_size=size,
        batch_size=config.batch_size,
        loss=detection_loss(config.loss, config.box_loss),
        output_error=config.output_error,
        num_projections=config.num_projections,
        device=context.device,
        seed=context.seed,
        progress_folder=context.progress_folder,
    )
    return rank_together(
        job, context.progress, num_ranks=config.devices, timeout_seconds=config.timeout_s
    )


def _worth(table: SensitivityTable) -> str:
    """How sure the ranking is, and what it cost."""
    cost = f"{table.method} on {table.num_images} images in {table.seconds:.1f} s"
    if table.reliability is None:
        return f"{cost}; one image cannot tell how reliable the ranking is"
    doubt = "" if table.reliability >= _SURE else ": much of the order is chance, take more images"
    return f"{cost}; two halves of them rank alike by {table.reliability:.2f} of 1{doubt}"


STAGE = Stage(
    name="sensitivity",
    version=2,
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
    check=check,
    content=content,
)
