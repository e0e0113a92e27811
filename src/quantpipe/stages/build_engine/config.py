"""Settings of ``build_engine``, and what can be known to be wrong before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.core.artifact import ArtifactKind
from quantpipe.engines.contract import Precision
from quantpipe.engines.registry import require_calibration_cache
from quantpipe.errors import ConfigurationError
from quantpipe.settings.engine import EngineSettings, check_engine, engine_platform

CALIBRATION_CACHE = "calibration_cache"


@dataclass(frozen=True, kw_only=True)
class BuildEngineConfig:
    """Settings of the stage; see ``conf/stage/build_engine.yaml``."""

    engine: EngineSettings
    precision: Precision


def check(config: BuildEngineConfig) -> None:
    """Finds a missing library, missing hardware, or a precision without kernels."""
    check_engine(config.engine, config.precision)


def check_wiring(config: BuildEngineConfig, kinds: Mapping[str, ArtifactKind]) -> None:
    """Refuses a calibration cache where the engine cannot take its ranges from one."""
    if CALIBRATION_CACHE not in kinds:
        return
    require_calibration_cache(config.engine.name)
    if config.precision != "int8":
        raise ConfigurationError(
            f"holds ranges, which precision={config.precision} has no use for",
            path=CALIBRATION_CACHE,
            hint="set precision=int8 or leave it out",
        )


def content(config: BuildEngineConfig, memo: Path) -> Mapping[str, Any]:  # noqa: ARG001
    """The library and the hardware."""
    return vars(engine_platform(config.engine))
