"""How close an engine has to come to the network that it was built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from quantpipe.schema import Between
from quantpipe.settings.recipe import Fraction, Positive


@dataclass(frozen=True, kw_only=True)
class MeanLimits:
    """Largest mean differences that pass: of boxes in pixels, of scores as they are."""

    box_mean_abs: Positive
    score_mean_abs: Positive


@dataclass(frozen=True, kw_only=True)
class ParitySettings:
    """Images that engine and network both see, and what passes.

    Attributes:
        num_images: The first of the validation images.
        fp32: For FP32 engines.
        half: For FP16 and bf16 engines.
        int8_limit: Mean distance of an INT8 engine from the float network, in those of the
            fake-quantized network.
        min_agreement: Of detections, for engines that give no predictions.
    """

    num_images: Annotated[int, Between(1)]
    fp32: MeanLimits
    half: MeanLimits
    int8_limit: Positive
    min_agreement: Fraction
