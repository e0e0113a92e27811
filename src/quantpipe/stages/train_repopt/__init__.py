"""Hyper-search of RepOptimizer's scales, then the RepOptimizer training."""

from __future__ import annotations

from quantpipe.core.stage import Output, Stage, imported
from quantpipe.stages.artifacts import HISTORY, MODEL, REP_SCALES, STATE_DICT
from quantpipe.stages.train_repopt.config import TrainRepoptConfig, check, content

STAGE = Stage(
    name="train_repopt",
    version=1,
    config_type=TrainRepoptConfig,
    outputs={
        "model": Output(kind=MODEL),
        "rep_scales": Output(kind=REP_SCALES, required=False),
        "history": Output(kind=HISTORY, required=False),
        "state_dict": Output(kind=STATE_DICT, required=False),
    },
    run=imported("quantpipe.stages.train_repopt.run"),
    check=check,
    content=content,
    charts=imported("quantpipe.stages.training_charts", "charts"),
)
