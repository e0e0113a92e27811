"""The ``engine`` group: which inference library, how it builds, and what it reads."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Literal

from quantpipe.engines.contract import LibrarySettings, Platform
from quantpipe.engines.registry import (
    ENGINES,
    availability,
    engine_spec,
    platform_here,
    require_mode,
    require_precision,
)
from quantpipe.errors import ConfigurationError, MachineError
from quantpipe.schema import Between

if TYPE_CHECKING:
    EngineName = str
    EngineSettings = LibrarySettings
else:
    # Whatever the table lists: an engine's settings are told apart by its name.
    EngineName = Literal[tuple(ENGINES)]
    EngineSettings = reduce(or_, (spec.settings for spec in ENGINES.values()))

Opset = Literal["auto"] | Annotated[int, Between(17, 23)]


def check_engine(engine: EngineSettings, precision: str) -> None:
    """Raises MachineError or ConfigurationError where the engine cannot be built here."""
    reason = availability(engine.name, building=True)
    if reason is not None:
        raise MachineError(reason, path=f"engine={engine.name}")
    require_precision(engine.name, precision)
    require_mode(engine.name, engine.mode)


def engine_platform(engine: EngineSettings) -> Platform:
    """The library version and the hardware that an engine is tied to."""
    return platform_here(engine.name)


def resolved_opset(opset: Opset, target: str, *, path: str = "opset") -> int:
    """Returns the opset to write for an engine: as given, or what the library here is best with.

    ``path`` is the key that an error names.

    Raises:
        ConfigurationError: The library that is installed here does not parse it.
    """
    known = engine_spec(target).opsets()
    if opset == "auto":
        return known.best
    if known.newest is not None and opset > known.newest:
        raise ConfigurationError(
            f"{known.reader} parses ONNX up to opset {known.newest}, not {opset}",
            path=path,
            hint="set it to auto",
        )
    return opset
