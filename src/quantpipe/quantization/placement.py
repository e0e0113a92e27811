"""Where Q/DQ pairs go, and in what form, for each kind of engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantpipe.errors import ConfigurationError, nearest


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What an engine's integer kernels need around an operation.

    The inputs of every quantized convolution, transposed convolution and max-pool carry a pair, and
    so do the weights of the convolutions; a tensor with several consumers carries one pair.

    Attributes:
        folded_weights: Keep weights as int8 behind a DequantizeLinear, not float32 behind a pair.
        quantized_concat_inputs: Also put the pair of a concat's output on each of its inputs.
        unsigned_activations: Use uint8: zero point 0 where a tensor cannot be negative, else 128.
    """

    folded_weights: bool
    quantized_concat_inputs: bool
    unsigned_activations: bool


# Processors multiply unsigned activations by signed weights. ONNX Runtime fuses a convolution only
# if its output is quantized, and a ReLU into it only if the zero point is the smallest value of the
# type. OpenVINO (2026.4) takes signed activations but computes a convolution that reads a concat
# wrongly with them (by 20 times the error of quantization), and is faster with unsigned ones.
_PROCESSOR = Placement(folded_weights=True, quantized_concat_inputs=True, unsigned_activations=True)

# TensorRT takes zero point 0 only, and its version 8 wants float32 weights.
_TENSORRT = Placement(
    folded_weights=False, quantized_concat_inputs=False, unsigned_activations=False
)

PLACEMENT: Mapping[str, Placement] = {
    "tensorrt": _TENSORRT,
    "onnxruntime_cuda": _TENSORRT,  # float only; Q/DQ would be computed as it is written
    "onnxruntime_tensorrt": _TENSORRT,
    "onnxruntime_tensorrt_rtx": _TENSORRT,
    "openvino": _PROCESSOR,
    "onnxruntime": _PROCESSOR,
}


def placement_for(target: str) -> Placement:
    """Returns the placement for an engine.

    Raises:
        ConfigurationError: There is none of that name.
    """
    if target not in PLACEMENT:
        raise ConfigurationError(
            f"unknown export target '{target}'",
            path="export.target",
            hint=nearest(target, PLACEMENT),
        )
    return PLACEMENT[target]
