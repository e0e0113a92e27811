"""Builds the engine that runs on this machine."""

from __future__ import annotations

from quantpipe.core.stage import Output, PerVariant, Stage, imported, takes
from quantpipe.stages.artifacts import ENGINE, GRAPH
from quantpipe.stages.build_engine.config import BuildEngineConfig, check, content

STAGE = Stage(
    name="build_engine",
    version=3,
    config_type=BuildEngineConfig,
    inputs={"graph": takes(GRAPH)},
    outputs={"engine": Output(kind=ENGINE)},
    run=imported("quantpipe.stages.build_engine.run"),
    check=check,
    content=content,
    per_variant=PerVariant(
        input="graph", output="engine", settings=lambda row: {"precision": row["precision"]}
    ),
)
