"""What can be known of the engines of a library without importing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from quantpipe.engines.contract import Backend, LibrarySettings, Mode
from quantpipe.quantization.number_format import Precision
from quantpipe.quantization.placement import Placement

OPSET = 20
"""Of ONNX: what a library reads that is known for no other wish."""


@dataclass(frozen=True, kw_only=True)
class Opsets:
    """Which versions of ONNX a library reads.

    Attributes:
        best: The one to export.
        newest: The newest that it is known to take, where that is a limit.
        reader: How the library is called where ``newest`` is one.
    """

    best: int = OPSET
    newest: int | None = None
    reader: str = ""


@dataclass(frozen=True, kw_only=True)
class CalibrationCacheReader:
    """A library that takes ranges from a calibration cache beside a float graph.

    Attributes:
        name: The library, and up to which version it does.
        check: Raises ConfigurationError where the version that is here does not.
    """

    name: str
    check: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class QuantizedNode:
    """A node of a graph whose inputs all carry ranges.

    Attributes:
        kind: ``Conv``, ``ConvTranspose`` or ``MaxPool``.
        requantized: Whether its result is quantized too, directly or behind a ReLU.
    """

    kind: str
    requantized: bool


def _no_reason(node: QuantizedNode) -> None:  # noqa: ARG001 - the signature of all
    return None


def _never(calibration_cache: bool) -> bool:  # noqa: ARG001 - the signature of all
    return False


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """Everything that can be known of an engine without importing its library.

    Attributes:
        name: What ``engine=`` and an engine file call it.
        settings: The dataclass of ``conf/engine/<name>.yaml``.
        packages: Importable modules that must be there.
        distributions: Names of the library's distributions; the first one found tells the version.
        install: The line that installs the library.
        precisions: What the library runs faster than, or as, FP32.
        modes: What it is built for.
        hardware: Names what an engine of this kind is tied to; None where that is missing.
        backend: Imports what builds and loads.
        placement: Where Q/DQ pairs go, and in what form.
        missing_hardware: What to say where ``hardware`` is.
        builders: Importable modules that must be there to build, not to run.
        needs: Distributions that must be there too, where importable modules do not tell.
        tied_to: Distributions whose versions an engine is tied to besides the library's, if there.
        opsets: What the library that is here reads.
        half_in_graph: Whether half precision has to be written into the graph as types, given
            whether ranges come from a calibration cache.
        calibration_cache: Of a library that reads one.
        runs_nms_plugin: Whether it runs TensorRT's plugin for suppression.
        fallback: Why a node whose ranges are in the graph runs in float; None where the library
            might have chosen otherwise.
    """

    name: str
    settings: type[LibrarySettings]
    packages: tuple[str, ...]
    distributions: tuple[str, ...]
    install: str
    precisions: tuple[Precision, ...]
    modes: tuple[Mode, ...]
    hardware: Callable[[], str | None]
    backend: Callable[[], Backend]
    placement: Placement
    missing_hardware: str = ""
    builders: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    tied_to: tuple[str, ...] = ()
    opsets: Callable[[], Opsets] = Opsets
    half_in_graph: Callable[[bool], bool] = _never
    calibration_cache: CalibrationCacheReader | None = None
    runs_nms_plugin: bool = False
    fallback: Callable[[QuantizedNode], str | None] = _no_reason


def imported(module: str) -> Callable[[], Backend]:
    """What imports a module that is a :class:`Backend` when it is called: its library is heavy."""
    return lambda: cast(Backend, import_module(module))
