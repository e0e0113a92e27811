"""Picture of the ranking for the report."""

from __future__ import annotations

from collections.abc import Sequence

from quantpipe.core.stage import Inputs
from quantpipe.quantization.model_files import PLAN
from quantpipe.report.html import Chart
from quantpipe.report.pages import sensitivity_charts
from quantpipe.stages.artifacts import MODEL


def charts(step: str, artifacts: Inputs, run: Sequence[Inputs]) -> Sequence[Chart]:  # noqa: ARG001
    """The operations, and which of them the run's first plan leaves in float."""
    plans = (
        artifact.file(PLAN) for made in run for artifact in made.values() if artifact.kind == MODEL
    )
    return sensitivity_charts(artifacts["table"].path, next(filter(None, plans), None))
