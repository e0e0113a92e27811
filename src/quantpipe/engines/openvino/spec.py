"""What OpenVINO is, without importing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from quantpipe.engines import hardware
from quantpipe.engines.contract import LibrarySettings
from quantpipe.engines.engine_spec import EngineSpec, imported
from quantpipe.quantization.number_format import INT8, SHIFTED_INT8, UINT8
from quantpipe.quantization.placement import Placement
from quantpipe.schema import Between


@dataclass(frozen=True, kw_only=True)
class OpenVinoSettings(LibrarySettings):
    """What OpenVINO is told.

    Attributes:
        num_streams: How many batches at once in ``throughput``; 0 leaves it to the library.
        num_threads: Processor threads an engine uses; 0 leaves it to the library.
    """

    name: Literal["openvino"]
    num_streams: Annotated[int, Between(0, 1024)]
    num_threads: Annotated[int, Between(0, 1024)]


# Processors multiply unsigned activations by signed weights. OpenVINO (2026.4) takes signed
# activations but computes a convolution that reads a concat wrongly with them (by 20 times the
# error of quantization), and is faster with unsigned ones.
_PLACEMENT = Placement(
    activations={INT8: (UINT8, SHIFTED_INT8)}, folded_weights=True, quantized_concat_inputs=True
)

SPEC = EngineSpec(
    name="openvino",
    settings=OpenVinoSettings,
    packages=("openvino",),
    distributions=("openvino",),
    install="pip install 'openvino>=2025.2'",
    precisions=("fp32", "half", "int8"),
    modes=("latency", "throughput"),
    hardware=hardware.processor,
    backend=imported("quantpipe.engines.openvino.backend"),
    placement=_PLACEMENT,
)
