"""Chooses which operations stay in float, from the ranking and a boundary."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.schema import Between
from quantpipe.core.stage import Context, Inputs, Metrics, Output, Outputs, Stage, may_take, takes
from quantpipe.detector.architecture import operation_names
from quantpipe.errors import ArtifactError, ConfigurationError
from quantpipe.files import sha256_file
from quantpipe.settings.model import ModelSettings, architecture

if TYPE_CHECKING:
    from quantpipe.assembly.networks import Loaded
    from quantpipe.quantization.sensitivity_table import SensitivityTable


@dataclass(frozen=True, kw_only=True)
class PartialQuantConfig:
    """Settings of the stage; see ``conf/stage/partial_quant.yaml``."""

    model: ModelSettings
    quant_boundary: Annotated[int, Between(0)]
    table_file: Path | None


def check(config: PartialQuantConfig) -> None:
    """Refuses a boundary past the last operation of the model, and finds a missing file."""
    if config.table_file is not None and not config.table_file.is_file():
        raise ArtifactError(
            "is not there", path=config.table_file, hint="see partial_quant.table_file"
        )
    last = len(operation_names(architecture(config.model, num_classes=1))) - 1
    if config.quant_boundary > last:
        raise ConfigurationError(
            f"{config.quant_boundary} is past the last of the model's {last + 1} operations",
            path="quant_boundary",
            hint=f"give 0 to {last}",
        )


def content(config: PartialQuantConfig, memo: Path) -> Mapping[str, Any]:  # noqa: ARG001
    """The file that the configuration names."""
    if config.table_file is None:
        return {}
    return {"table_file": sha256_file(config.table_file)}


def run(config: PartialQuantConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Writes the plan, the checkpoint that carries it, and its scales."""
    from dataclasses import replace

    from quantpipe.assembly.networks import load_inputs
    from quantpipe.detector.checkpoint import save_checkpoint
    from quantpipe.quantization.precision_plan import plan_from_boundary, save_plan

    loaded = load_inputs(inputs, context.device)
    table = _table(config, inputs, loaded)
    plan = plan_from_boundary(table, config.quant_boundary)
    save_plan(outputs["plan"], plan)
    save_checkpoint(
        outputs["checkpoint"], replace(loaded.checkpoint, precision_plan=dict(plan.operations))
    )
    shutil.copyfile(inputs["scales"].path, outputs["scales"])
    kept = [name for name, precision in plan.operations.items() if precision == "float"]
    return {"quant_boundary": config.quant_boundary, "float_operations": kept}


def _table(config: PartialQuantConfig, inputs: Inputs, loaded: Loaded) -> SensitivityTable:
    """The ranking of the wired step, or of a published text file, which names no weights."""
    from quantpipe.detector.foreign.tensors import our_names
    from quantpipe.quantization.sensitivity_table import load_table, read_published_text

    operations = operation_names(loaded.checkpoint.architecture)
    if config.table_file is not None:
        table = read_published_text(config.table_file).renamed(our_names(operations))
        table.require_operations(operations, path=config.table_file)
        return table
    if "table" not in inputs:
        raise ConfigurationError(
            "no ranking is given",
            path="partial_quant.inputs.table",
            hint="wire a sensitivity step, or set partial_quant.table_file=FILE",
        )
    source = inputs["table"].path
    table = load_table(source)
    table.require_weights(loaded.checkpoint.weights_digest, path=source)
    return table


STAGE = Stage(
    name="partial_quant",
    version=1,
    config_type=PartialQuantConfig,
    inputs={
        "checkpoint": takes(ArtifactKind.CHECKPOINT),
        "scales": takes(ArtifactKind.SCALES),
        "table": may_take(ArtifactKind.SENSITIVITY),
    },
    outputs={
        "plan": Output(kind=ArtifactKind.PLAN, file="plan.json"),
        "checkpoint": Output(kind=ArtifactKind.CHECKPOINT, file="checkpoint.safetensors"),
        "scales": Output(kind=ArtifactKind.SCALES, file="scales.json"),
    },
    run=run,
    check=check,
    content=content,
)
