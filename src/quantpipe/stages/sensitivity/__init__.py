"""Ranks the operations by what INT8 in each does to the detector."""

from __future__ import annotations

from quantpipe.core.stage import Output, Stage, imported, takes
from quantpipe.stages.artifacts import MODEL, SENSITIVITY, SENSITIVITY_TEXT
from quantpipe.stages.sensitivity.config import SensitivityConfig, check, content

STAGE = Stage(
    name="sensitivity",
    version=3,
    config_type=SensitivityConfig,
    inputs={"model": takes(MODEL)},
    outputs={
        "table": Output(kind=SENSITIVITY),
        "text": Output(kind=SENSITIVITY_TEXT, required=False),
    },
    run=imported("quantpipe.stages.sensitivity.run"),
    check=check,
    content=content,
    charts=imported("quantpipe.stages.sensitivity.charts", "charts"),
)
