"""Pictures of a training for the report, for every stage that trains."""

from __future__ import annotations

from collections.abc import Sequence

from quantpipe.core.stage import Inputs
from quantpipe.report.html import Chart
from quantpipe.report.pages import training_charts


def charts(step: str, artifacts: Inputs, run: Sequence[Inputs]) -> Sequence[Chart]:  # noqa: ARG001
    """The curves of its epochs."""
    return training_charts(step, artifacts["history"].path) if "history" in artifacts else ()
