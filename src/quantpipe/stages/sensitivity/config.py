"""Settings of ``sensitivity``, and what can be known to be wrong before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from quantpipe.distributed.launch import require_size
from quantpipe.schema import Between, ExecutionOnly
from quantpipe.settings.data import BatchSize, DataSettings, Split, check_data, data_content
from quantpipe.settings.model import LossSettings


@dataclass(frozen=True, kw_only=True)
class SensitivityConfig:
    """Settings of the stage; see ``conf/stage/sensitivity.yaml``."""

    devices: Annotated[int, Between(1, 64), ExecutionOnly()]
    timeout_s: Annotated[float, Between(1), ExecutionOnly()]
    data: DataSettings
    split: Split
    method: Literal["map", "loss", "output", "gradient"]
    direction: Literal["only", "all_but"]
    num_images: Annotated[int, Between(1)]
    batch_size: BatchSize
    output_error: Literal["detections", "noise"]
    num_projections: Annotated[int, Between(1, 1000)]
    loss: LossSettings


def check(config: SensitivityConfig) -> None:
    """Finds missing data, and ranks other than a launcher's."""
    check_data(config.data)
    require_size(config.devices)


def content(config: SensitivityConfig, memo: Path) -> Mapping[str, Any]:
    """The images."""
    return {"data": data_content(config.data, (config.split,), memo)}
