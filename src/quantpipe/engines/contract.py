"""What an engine is, and what an inference library gives so that there is one.

This module knows no library and no other module of the package: libraries are folders that fill in
an :class:`~quantpipe.engines.engine_spec.EngineSpec` and a :class:`Backend`, and
:mod:`quantpipe.engines.registry` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from quantpipe.errors import ConfigurationError
from quantpipe.quantization.number_format import FloatPrecision, Precision, is_quantized
from quantpipe.schema import Between

Mode = Literal["latency", "throughput"]
Images = NDArray[np.float32]
Predictions = NDArray[np.float32]
ImageSize = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What an engine is tied to.

    Attributes:
        library: The engine's name with the version of its library, and of those below it.
        hardware: The processor or GPU.
    """

    library: str
    hardware: str


@dataclass(frozen=True, kw_only=True)
class LibrarySettings:
    """What every engine is told. Abstract: the settings of a library add what it alone reads.

    Attributes:
        name: Of the engine; a library narrows it to the names that it serves.
        batch_sizes: That it is optimized for, ascending; others are split and padded.
        float_precision: What a quantized engine runs its remaining float operations in.
        mode: ``latency`` computes one batch at a time as fast as it can; ``throughput`` several at
            once, each more slowly.
    """

    name: str
    batch_sizes: Annotated[tuple[int, ...], Between(1, 1024)]
    float_precision: FloatPrecision
    mode: Mode

    def __post_init__(self) -> None:
        if not self.batch_sizes or sorted(set(self.batch_sizes)) != list(self.batch_sizes):
            raise ConfigurationError(
                f"{list(self.batch_sizes)} is not an ascending list", path="batch_sizes"
            )


S = TypeVar("S", bound=LibrarySettings)


@dataclass(frozen=True, kw_only=True)
class BuildSettings(Generic[S]):
    """How one engine is built.

    Attributes:
        engine: What its library is told.
        precision: A number format means that the graph carries Q/DQ, or that ranges come beside it;
            ``half`` is FP16 on GPUs and bf16 on processors.
        image_size: Of its input.
    """

    engine: S
    precision: Precision
    image_size: ImageSize

    @property
    def float_precision(self) -> FloatPrecision:
        """What the float operations run in."""
        if is_quantized(self.precision):
            return self.engine.float_precision
        return cast("FloatPrecision", self.precision)


def _unheard(line: str) -> None:
    """Where nothing is kept, nothing is told."""


@dataclass(frozen=True, kw_only=True)
class BuildInputs:
    """What a build reads besides graph and settings; none of it changes what the file says.

    Attributes:
        calibration_cache: Text of a calibration cache, for a graph without Q/DQ.
        memo: A folder where a builder may keep what it measured, for the next build.
        note: Told of what is ignored in that folder, and why.
    """

    calibration_cache: str | None = None
    memo: Path | None = None
    note: Callable[[str], None] = _unheard


@dataclass(frozen=True, kw_only=True)
class EngineLayer:
    """A layer of a built engine, as the library reports it.

    Attributes:
        name: The library's name, which holds the name of the ONNX node where the library keeps it.
        kind: The library's layer type (``Convolution``, ``QLinearConv``, ...).
        precision: ``int8``, ``fp32``, ``bf16``, ``fp16``, or the library's own word for others.
        quantizable: Whether it is a convolution, transposed convolution or max-pool.
    """

    name: str
    kind: str
    precision: str
    quantizable: bool


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """An executed layer: its name, with the names of what is fused into it, and milliseconds."""

    name: str
    milliseconds: float


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """A layer of a quantized engine that could run in integers and does not, and why."""

    layer: str
    reason: str


class Engine(Protocol):
    """A built network, ready to run."""

    def run(self, images: Images) -> Predictions:
        """Returns predictions (B, A, 5 + classes) for images (B, 3, H, W) of its network."""
        ...

    def run_all(self, batches: Iterable[Images]) -> list[Predictions]:
        """Returns the predictions of each batch, several at once where it was built to."""
        ...

    def layers(self) -> Sequence[EngineLayer]:
        """Returns the layers that run, with the precision the library chose for each."""
        ...

    def profile(self, images: Images, num_runs: int) -> Sequence[LayerTime]:
        """Returns the least time of each layer that runs, over runs on one batch.

        The file that the engine was loaded from has to be there still.

        Args:
            images: (B, 3, H, W), B one of the engine's batch sizes.
            num_runs: How many runs are counted; one more before them is not.
        """
        ...

    def close(self) -> None:
        """Frees the library's memory; the engine cannot run any more."""
        ...


class Backend(Protocol):
    """What builds and loads the engines of a library: a module of it, or an object."""

    def build(
        self,
        onnx_path: Path,
        engine_path: Path,
        settings: BuildSettings[Any],
        platform: Platform,
        inputs: BuildInputs,
    ) -> None:
        """Builds an engine from an ONNX file and writes it as one file."""
        ...

    def load(self, engine_path: Path, platform: Platform) -> Engine:
        """Loads what :meth:`build` wrote, on the same platform."""
        ...


def float_layers(layers: Sequence[EngineLayer]) -> tuple[EngineLayer, ...]:
    """Returns the layers that could have been quantized and run in float."""
    return tuple(
        layer for layer in layers if layer.quantizable and not is_quantized(layer.precision)
    )
