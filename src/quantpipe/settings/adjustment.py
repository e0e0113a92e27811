"""How biases and the integers of weights are fitted to INT8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from quantpipe.schema import Between
from quantpipe.settings.recipe import Positive

WeightRounding = Literal["nearest", "hessian"]


@dataclass(frozen=True, kw_only=True)
class AdjustmentSettings:
    """What to fit to, and what the methods have to be told; see ``conf/stage/calibrate.yaml``."""

    num_images: Annotated[int, Between(1)]
    num_positions: Annotated[int, Between(1)]
    damping: Positive
