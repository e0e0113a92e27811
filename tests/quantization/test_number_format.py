"""Every precision has a line in the table, under a format's own name; types hold the codes."""

from __future__ import annotations

from typing import get_args

import numpy as np
import onnx
import pytest

from quantpipe.quantization.number_format import (
    CALIBRATED,
    INT8,
    NUMBER_FORMATS,
    PRECISIONS,
    SHIFTED_INT8,
    UINT8,
    FloatPrecision,
    NumberFormat,
    Precision,
    is_quantized,
)


def test_every_precision_is_float_or_a_format_of_its_name() -> None:
    assert tuple(PRECISIONS) == get_args(Precision)
    floats = [name for name, number_format in PRECISIONS.items() if number_format is None]
    assert floats == list(get_args(FloatPrecision))
    assert all(number_format.name == name for name, number_format in NUMBER_FORMATS.items())
    assert [name for name in PRECISIONS if is_quantized(name)] == list(NUMBER_FORMATS)
    assert is_quantized(CALIBRATED.name)


@pytest.mark.parametrize("number_format", [INT8, UINT8, SHIFTED_INT8])
def test_the_type_holds_the_codes_of_a_range(number_format: NumberFormat) -> None:
    element = onnx.TensorProto.DataType.Value(number_format.onnx_type)
    held = np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(element))
    least = -number_format.max_level if number_format.signed else 0
    codes = np.array([least, number_format.max_level]) + number_format.zero_point
    assert held.min <= codes[0]
    assert codes[1] <= held.max
    assert held.bits == number_format.bits
