"""Ranges for every operation, from unaugmented images, into the scale cache."""

from __future__ import annotations

from quantpipe.core.stage import Output, Stage, imported, takes
from quantpipe.stages.artifacts import MODEL, RANGES
from quantpipe.stages.calibrate.config import CalibrateConfig, check, content

STAGE = Stage(
    name="calibrate",
    version=4,
    config_type=CalibrateConfig,
    inputs={"model": takes(MODEL)},
    outputs={"model": Output(kind=MODEL), "ranges": Output(kind=RANGES, required=False)},
    run=imported("quantpipe.stages.calibrate.run"),
    check=check,
    content=content,
)
