"""Picture of the plan for the report."""

from __future__ import annotations

from collections.abc import Sequence

from quantpipe.core.stage import Inputs
from quantpipe.quantization.model_files import PLAN
from quantpipe.report.html import Chart
from quantpipe.report.pages import plan_charts


def charts(step: str, artifacts: Inputs, run: Sequence[Inputs]) -> Sequence[Chart]:  # noqa: ARG001
    """What was measured to choose it."""
    plan = artifacts["model"].file(PLAN)
    return () if plan is None else plan_charts(plan)
