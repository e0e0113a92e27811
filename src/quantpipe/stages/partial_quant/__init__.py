"""Chooses which operations stay in float: by a ranking and a boundary, by budgets, or as given."""

from __future__ import annotations

from quantpipe.core.stage import Output, Stage, imported, may_take, takes
from quantpipe.stages.artifacts import MODEL, SENSITIVITY
from quantpipe.stages.partial_quant.config import PartialQuantConfig, check, content

STAGE = Stage(
    name="partial_quant",
    version=3,
    config_type=PartialQuantConfig,
    inputs={"model": takes(MODEL), "table": may_take(SENSITIVITY)},
    outputs={"model": Output(kind=MODEL)},
    run=imported("quantpipe.stages.partial_quant.run"),
    check=check,
    content=content,
    charts=imported("quantpipe.stages.partial_quant.charts", "charts"),
)
