"""Which engines there are: one line each, and what is asked of any of them by its name.

Nothing here imports an inference library, so that a pipeline is validated in no time; what builds
and loads is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

from quantpipe.engines import engine_file
from quantpipe.engines.contract import (
    Backend,
    BuildInputs,
    BuildSettings,
    Engine,
    Mode,
    Platform,
)
from quantpipe.engines.engine_spec import EngineSpec
from quantpipe.engines.onnxruntime import spec as onnxruntime
from quantpipe.engines.openvino import spec as openvino
from quantpipe.engines.tensorrt import spec as tensorrt
from quantpipe.errors import ConfigurationError, MachineError, UnsupportedError, nearest

_SPECS: Sequence[EngineSpec] = (
    openvino.SPEC,
    onnxruntime.PROCESSOR,
    tensorrt.SPEC,
    onnxruntime.CUDA,
    onnxruntime.TENSORRT,
    onnxruntime.TENSORRT_RTX,
)
ENGINES: Mapping[str, EngineSpec] = {spec.name: spec for spec in _SPECS}


def engine_spec(name: str) -> EngineSpec:
    """Returns the entry of an engine.

    Raises:
        ConfigurationError: There is no engine of that name.
    """
    if name not in ENGINES:
        raise ConfigurationError(
            f"unknown engine '{name}'", path="engine", hint=nearest(name, ENGINES)
        )
    return ENGINES[name]


def availability(name: str, *, building: bool = False) -> str | None:
    """Returns None if the engine can be used on this machine, or else why not and what to do.

    Args:
        name: Of the engine.
        building: Whether it is to be built as well, for which a library may need another.
    """
    spec = engine_spec(name)
    packages = spec.packages + (spec.builders if building else ())
    missing = [package for package in packages if not _installed(package)]
    missing += [name for name in spec.needs if _version([name]) is None]
    if missing:
        return f"engine '{name}' needs {', '.join(missing)}; install it with: {spec.install}"
    if spec.hardware() is None:
        return f"engine '{name}': {spec.missing_hardware}"
    return None


def platform_here(name: str) -> Platform:
    """Returns what an engine that is built here is tied to.

    Raises:
        MachineError: The library or its hardware is not there.
    """
    _require_available(name)
    spec = engine_spec(name)
    hardware = spec.hardware()
    assert hardware is not None
    others = [f"{other} {found}" for other in spec.tied_to if (found := _version([other]))]
    versions = [_version(spec.distributions) or "unknown", *others]
    return Platform(library=f"{name} {', '.join(versions)}", hardware=hardware)


def build_engine(
    onnx_path: Path,
    engine_path: Path,
    settings: BuildSettings[Any],
    inputs: BuildInputs | None = None,
) -> None:
    """Builds an engine for this machine from an ONNX file.

    Raises:
        ConfigurationError: The engine does not know the precision or the mode.
        MachineError: The library or its hardware is not there, or it fails.
        ArtifactError: The ONNX file is not what the library takes.
    """
    name = settings.engine.name
    require_precision(name, settings.precision)
    require_mode(name, settings.engine.mode)
    _require_available(name, building=True)
    backend, platform = _backend(name), platform_here(name)
    backend.build(onnx_path, engine_path, settings, platform, inputs or BuildInputs())


def load_engine(name: str, engine_path: Path) -> Engine:
    """Loads an engine that :func:`build_engine` wrote.

    Raises:
        ArtifactError: The file is damaged or of another engine.
        MachineError: It was built elsewhere, or the library is not there.
    """
    _require_available(name)
    return _backend(name).load(engine_path, platform_here(name))


def read_header(path: Path) -> engine_file.EngineHeader[Any]:
    """Returns the header of an engine file of any engine; the rest is not checked.

    Raises:
        ArtifactError: It is not an engine file, or its header is damaged.
    """
    return engine_file.read_header(path, ENGINES)


def require_precision(name: str, precision: str) -> None:
    """Refuses a precision that an engine has no kernels for.

    Raises:
        UnsupportedError: With the precisions that it has.
    """
    known = engine_spec(name).precisions
    if precision not in known:
        raise UnsupportedError(
            f"engine '{name}' has no '{precision}' kernels on this kind of hardware",
            path="precision",
            hint=f"known: {', '.join(known)}",
        )


def require_mode(name: str, mode: Mode) -> None:
    """Refuses a mode that an engine has not.

    Raises:
        ConfigurationError: With what does the same there.
    """
    if mode not in engine_spec(name).modes:
        raise ConfigurationError(
            f"engine '{name}' has no '{mode}' mode",
            path="mode",
            hint="give mode=latency and a larger batch size",
        )


def require_calibration_cache(name: str) -> None:
    """Refuses a calibration cache where the engine that is here takes no ranges from one.

    Raises:
        ConfigurationError: With who does, or what to build from instead.
    """
    reader = engine_spec(name).calibration_cache
    if reader is not None:
        reader.check()
        return
    readers = {s.name: s.calibration_cache.name for s in ENGINES.values() if s.calibration_cache}
    raise ConfigurationError(
        f"a calibration cache is read by {', '.join(readers.values())}, not by {name}",
        path="ranges",
        hint=f"set ranges=qdq, or engine={' or '.join(readers)}",
    )


def _backend(name: str) -> Backend:
    """What builds and loads; a library may be installed and yet miss one that it needs."""
    spec = engine_spec(name)
    try:
        return spec.backend()
    except (ImportError, OSError) as error:
        raise MachineError(
            f"engine '{name}' cannot be imported: {error}",
            hint=f"install it anew with: {spec.install}",
        ) from error


def _require_available(name: str, *, building: bool = False) -> None:
    reason = availability(name, building=building)
    if reason is not None:
        raise MachineError(reason)


def _installed(package: str) -> bool:
    try:
        return util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a dotted name is not there
        return False


def _version(distributions: Sequence[str]) -> str | None:
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None
