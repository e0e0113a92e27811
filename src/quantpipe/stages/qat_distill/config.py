"""Settings of ``qat_distill``, and what can be known to be wrong before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quantpipe.schema import Fraction, Positive
from quantpipe.settings.data import data_content
from quantpipe.settings.training import TrainingSettings, check_training
from quantpipe.training.distillation_numbers import DistillationNumbers


@dataclass(frozen=True, kw_only=True)
class RangeSettings:
    """What learned (``lr_factor``) and averaged ranges (the others) are told.

    See :class:`quantpipe.quantization.simulation.ranges.Learned` and ``Averaged``.
    """

    lr_factor: Positive
    decay: Fraction
    frozen_fraction: Fraction


@dataclass(frozen=True, kw_only=True)
class QatDistillConfig(TrainingSettings):
    """Settings of the stage; see ``conf/stage/qat_distill.yaml``."""

    ranges: Literal["fixed", "learned", "ema"]
    range_training: RangeSettings
    distillation: DistillationNumbers


def check(config: QatDistillConfig) -> None:
    """Finds missing data, a missing library, and a batch that cannot be shared."""
    check_training(config)


def content(config: QatDistillConfig, memo: Path) -> Mapping[str, Any]:
    """The images."""
    return {"data": data_content(config.data, ("train", "val"), memo)}
