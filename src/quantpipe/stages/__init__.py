"""The table of stages, and a folder for each: its settings, its work, and its own parts.

``config.py`` is light: a command line is parsed and checked, and finished results are reused,
without torch and the domain packages, which ``run.py`` imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantpipe.core.stage import Stage
from quantpipe.stages import (
    build_engine,
    calibrate,
    evaluate,
    export,
    partial_quant,
    qat_distill,
    sensitivity,
    train_repopt,
)

STAGES: Mapping[str, Stage[Any]] = {
    module.STAGE.name: module.STAGE
    for module in (
        train_repopt,
        calibrate,
        sensitivity,
        partial_quant,
        qat_distill,
        export,
        build_engine,
        evaluate,
    )
}
