"""Ranks the operations by what INT8 in each does to the detector."""

from __future__ import annotations

import torch

from quantpipe.core.stage import Context, Inputs, Metrics, Outputs
from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.families.implementation import DetectionLoss
from quantpipe.errors import ConfigurationError
from quantpipe.quantization.model import load_model
from quantpipe.quantization.operations import find_operations
from quantpipe.quantization.sensitivity.released_table import write_released_text
from quantpipe.quantization.sensitivity.table import (
    SensitivityTable,
    save_table,
)
from quantpipe.settings.data import choose_images, open_split
from quantpipe.settings.model import loss_of
from quantpipe.stages.sensitivity.config import SensitivityConfig
from quantpipe.stages.sensitivity.methods import RankingJob, rank_together

_SURE = 0.7  # rankings of two halves below this correlation mostly reflect the choice of images


def run(config: SensitivityConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Writes the table, and the published text format beside it where mAP was measured."""
    table = _ranked(config, inputs, context)
    save_table(outputs["table"], table)
    if table.method == "map" and table.direction == "only":
        write_released_text(outputs["text"], table)
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
    model = load_model(inputs["model"].path, "cpu")
    specification = model.checkpoint.input
    dataset = open_split(config.data, config.split, context)
    job = RankingJob(
        method=config.method,
        direction=config.direction,
        network=model.network,
        scales=model.require_scales(),
        operations=find_operations(model.network, torch.zeros(1, 3, *specification.size)),
        dataset=dataset.subset(choose_images(dataset, config.num_images, context)),
        specification=specification,
        batch_size=config.batch_size,
        loss=_loss(config, model.checkpoint, context.step),
        output_error=config.output_error,
        num_projections=config.num_projections,
        device=context.device,
        seed=context.seed,
        progress_folder=context.progress_folder,
    )
    return rank_together(
        job, context.progress, num_ranks=config.devices, timeout_seconds=config.timeout_s
    )


def _loss(config: SensitivityConfig, checkpoint: Checkpoint, step: str) -> DetectionLoss | None:
    """The loss of the checkpoint's family; None where no ranking by loss is asked for.

    Raises:
        ConfigurationError: The family has none.
    """
    if config.method != "loss":
        return None
    loss = loss_of(checkpoint.family, config.loss, path=f"{step}.loss")
    if loss is None:
        raise ConfigurationError(
            f"family {checkpoint.family} has no loss",
            path=f"{step}.method",
            hint="take gradient, output or map",
        )
    return loss


def _worth(table: SensitivityTable) -> str:
    """How sure the ranking is, and what it cost."""
    cost = f"{table.method} on {table.num_images} images in {table.seconds:.1f} s"
    if table.reliability is None:
        return f"{cost}; one image cannot tell how reliable the ranking is"
    doubt = "" if table.reliability >= _SURE else ": much of the order is chance, take more images"
    return f"{cost}; two halves of them rank alike by {table.reliability:.2f} of 1{doubt}"
