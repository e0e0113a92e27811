"""Where Q/DQ pairs go, and in what form."""

from __future__ import annotations

from dataclasses import dataclass

from quantpipe.quantization.number_format import NumberFormat


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What an engine's integer kernels need around an operation.

    The inputs of every quantized convolution, transposed convolution and max-pool carry a pair, and
    so do the weights of the convolutions; a tensor with several consumers carries one pair.

    Attributes:
        formats: Those that its kernels take.
        folded_weights: Keep weights as int8 behind a DequantizeLinear, not float32 behind a pair.
        quantized_concat_inputs: Also put the pair of a concat's output on each of its inputs.
        unsigned_activations: Use uint8: zero point 0 where a tensor cannot be negative, else 128.
    """

    formats: tuple[NumberFormat, ...]
    folded_weights: bool
    quantized_concat_inputs: bool
    unsigned_activations: bool
