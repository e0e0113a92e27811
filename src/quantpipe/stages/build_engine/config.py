"""Settings of ``build_engine``, and what can be known to be wrong before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.core.artifact import ArtifactKind
from quantpipe.engines.engine import Precision
from quantpipe.engines.tensorrt.version import installed_tensorrt
from quantpipe.errors import ConfigurationError
from quantpipe.settings.engine import EngineSettings, check_engine, engine_place

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
    if config.engine.name != "tensorrt":
        raise ConfigurationError(
            f"is read by TensorRT up to 10, not by {config.engine.name}",
            path=CALIBRATION_CACHE,
            hint="leave it out and wire a graph with Q/DQ, or set engine=tensorrt",
        )
    if config.precision != "int8":
        raise ConfigurationError(
            f"holds ranges, which precision={config.precision} has no use for",
            path=CALIBRATION_CACHE,
            hint="set precision=int8 or leave it out",
        )
    version = installed_tensorrt()
    if version is not None and not version.implicit_quantization:
        raise ConfigurationError(
            f"{version} takes ranges from Q/DQ nodes only, implicit quantization is gone since 11",
            path=CALIBRATION_CACHE,
            hint="leave it out and wire a graph with Q/DQ (as pipelines=ptq does), "
            "or install TensorRT 10",
        )


def content(config: BuildEngineConfig, memo: Path) -> Mapping[str, Any]:  # noqa: ARG001
    """The library and the hardware."""
    return dict(engine_place(config.engine))
