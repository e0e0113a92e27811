"""Settings of ``build_engine``, and what can be known to be wrong before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.quantization.number_format import Precision
from quantpipe.settings.engine import EngineSettings, check_engine, engine_platform


@dataclass(frozen=True, kw_only=True)
class BuildEngineConfig:
    """Settings of the stage; see ``conf/stage/build_engine.yaml``."""

    engine: EngineSettings
    precision: Precision


def check(config: BuildEngineConfig) -> None:
    """Finds a missing library, missing hardware, or a precision without kernels."""
    check_engine(config.engine, config.precision)


def content(config: BuildEngineConfig, memo: Path) -> Mapping[str, Any]:  # noqa: ARG001
    """The library and the hardware."""
    return vars(engine_platform(config.engine))
