"""The ``engine`` group: which inference library, and how it builds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import util
from typing import Annotated, Literal

from quantpipe.engines.engine import (
    BuilderApi,
    FloatPrecision,
    Mode,
    Precision,
    availability,
    identity,
    require_mode,
    require_precision,
)
from quantpipe.errors import ConfigurationError, MachineError
from quantpipe.schema import Between

EngineName = Literal[
    "openvino",
    "onnxruntime",
    "tensorrt",
    "onnxruntime_cuda",
    "onnxruntime_tensorrt",
    "onnxruntime_tensorrt_rtx",
]


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Settings shared by all engines of a run; see ``conf/engine``."""

    name: EngineName
    batch_sizes: Annotated[tuple[int, ...], Between(1, 1024)]
    float_precision: FloatPrecision
    mode: Mode
    num_streams: Annotated[int, Between(0, 1024)]
    num_threads: Annotated[int, Between(0, 1024)]
    workspace_mib: Annotated[int, Between(16)]
    optimization_level: Annotated[int, Between(0, 5)]
    builder: BuilderApi

    def __post_init__(self) -> None:
        if not self.batch_sizes or sorted(set(self.batch_sizes)) != list(self.batch_sizes):
            raise ConfigurationError(
                f"{list(self.batch_sizes)} is not an ascending list", path="batch_sizes"
            )


def check_engine(engine: EngineSettings, precision: Precision) -> None:
    """Raises MachineError or ConfigurationError where the engine cannot be built here."""
    reason = availability(engine.name)
    if reason is not None:
        raise MachineError(reason, path=f"engine={engine.name}")
    require_precision(engine.name, precision)
    require_mode(engine.name, engine.mode)
    if engine.name == "tensorrt" and engine.builder == "polygraphy" and not polygraphy_is_here():
        raise MachineError(
            "Polygraphy is not installed",
            path="engine.builder=polygraphy",
            hint="pip install 'polygraphy>=0.53.6', or set engine.builder=api",
        )


def polygraphy_is_here() -> bool:
    """Whether Polygraphy can be imported."""
    return util.find_spec("polygraphy") is not None


def engine_place(engine: EngineSettings) -> Mapping[str, str]:
    """The library version and the hardware that an engine is tied to."""
    return identity(engine.name)
