"""Quantization-aware fine-tuning of a calibrated network, taught by the float one."""

from __future__ import annotations

from quantpipe.core.stage import Output, Stage, imported, may_take, takes
from quantpipe.stages.artifacts import HISTORY, MODEL
from quantpipe.stages.qat_distill.config import QatDistillConfig, check, content

STAGE = Stage(
    name="qat_distill",
    version=3,
    config_type=QatDistillConfig,
    # Without a teacher of its own the student is taught by the float model it was calibrated from.
    inputs={"model": takes(MODEL, lineage=True), "teacher": may_take(MODEL)},
    outputs={"model": Output(kind=MODEL), "history": Output(kind=HISTORY)},
    run=imported("quantpipe.stages.qat_distill.run"),
    check=check,
    content=content,
    charts=imported("quantpipe.stages.training_charts", "charts"),
)
