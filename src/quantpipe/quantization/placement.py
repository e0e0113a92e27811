"""Where Q/DQ pairs go, and in what form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantpipe.quantization.number_format import NumberFormat


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What an engine's integer kernels need around an operation.

    The inputs of every quantized convolution, transposed convolution and max-pool carry a pair, and
    so do the weights of the convolutions; a tensor with several consumers carries one pair.

    Attributes:
        activations: The formats of ranges that its kernels take; for each those that activations
            are stored in, of which a tensor gets the first that can hold it.
        folded_weights: Keep weights as int8 behind a DequantizeLinear, not float32 behind a pair.
        quantized_concat_inputs: Also put the pair of a concat's output on each of its inputs.
    """

    activations: Mapping[NumberFormat, tuple[NumberFormat, ...]]
    folded_weights: bool
    quantized_concat_inputs: bool
