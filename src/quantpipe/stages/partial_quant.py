"""Chooses which operations stay in float, from the ranking and a boundary."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Annotated

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.schema import Between
from quantpipe.core.stage import Context, Inputs, Metrics, Output, Outputs, Stage, takes
from quantpipe.detector.architecture import operation_names
from quantpipe.errors import ConfigurationError
from quantpipe.settings.model import ModelSettings, architecture


@dataclass(frozen=True, kw_only=True)
class PartialQuantConfig:
    """Settings of the stage; see ``conf/stage/partial_quant.yaml``."""

    model: ModelSettings
    quant_boundary: Annotated[int, Between(0)]


def check(config: PartialQuantConfig) -> None:
    """Refuses a boundary past the last operation of the model."""
    last = len(operation_names(architecture(config.model, num_classes=1))) - 1
    if config.quant_boundary > last:
        raise ConfigurationError(
            f"{config.quant_boundary} is past the last of the model's {last + 1} operations",
            path="quant_boundary",
            hint=f"give 0 to {last}",
        )


def run(config: PartialQuantConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Writes the plan, the checkpoint that carries it, and its scales."""
    from dataclasses import replace

    from quantpipe.assembly.networks import load_inputs
    from quantpipe.detector.checkpoint import save_checkpoint
    from quantpipe.quantization.precision_plan import plan_from_boundary, save_plan
    from quantpipe.quantization.sensitivity_table import load_table

    loaded = load_inputs(inputs, context.device)
    source = inputs["table"].path
    table = load_table(source)
    table.require_weights(loaded.checkpoint.weights_digest, path=source)
    plan = plan_from_boundary(table, config.quant_boundary)
    save_plan(outputs["plan"], plan)
    save_checkpoint(
        outputs["checkpoint"], replace(loaded.checkpoint, precision_plan=dict(plan.operations))
    )
    shutil.copyfile(inputs["scales"].path, outputs["scales"])
    kept = [name for name, precision in plan.operations.items() if precision == "float"]
    return {"quant_boundary": config.quant_boundary, "float_operations": kept}


STAGE = Stage(
    name="partial_quant",
    version=1,
    config_type=PartialQuantConfig,
    inputs={
        "checkpoint": takes(ArtifactKind.CHECKPOINT),
        "scales": takes(ArtifactKind.SCALES),
        "table": takes(ArtifactKind.SENSITIVITY),
    },
    outputs={
        "plan": Output(kind=ArtifactKind.PLAN, file="plan.json"),
        "checkpoint": Output(kind=ArtifactKind.CHECKPOINT, file="checkpoint.safetensors"),
        "scales": Output(kind=ArtifactKind.SCALES, file="scales.json"),
    },
    run=run,
    check=check,
)
