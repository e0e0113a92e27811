"""Hyper-search of RepOptimizer's scales, then the RepOptimizer training."""

from __future__ import annotations

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.stage import Output, Stage, imported
from quantpipe.stages.train_repopt.config import TrainRepoptConfig, check, content

STAGE = Stage(
    name="train_repopt",
    version=1,
    config_type=TrainRepoptConfig,
    outputs={
        "checkpoint": Output(kind=ArtifactKind.CHECKPOINT, file="checkpoint.safetensors"),
        "rep_scales": Output(
            kind=ArtifactKind.REP_SCALES, file="rep_scales.safetensors", required=False
        ),
        "history": Output(kind=ArtifactKind.HISTORY, file="history.json", required=False),
        "state_dict": Output(kind=ArtifactKind.STATE_DICT, file="state_dict.pt", required=False),
    },
    run=imported("quantpipe.stages.train_repopt.run"),
    check=check,
    content=content,
)
