"""What each layer of a built engine takes, and which operation of the network it computes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantpipe.engines.contract import LayerTime

# Libraries join the names of what they fused: OpenVINO by commas, TensorRT by plus signs and bars.
_FUSED = re.compile(r"\s*(?:,|\+|\|\|)\s*")
# Copies that TensorRT names by the layers between which they stand.
_COPY = "Reformatting CopyNode"
# What libraries put behind a name: a part (OpenVINO), a second node of a module, a layout or a
# counter (ONNX Runtime), a constant that is made ready at run time.
_PART = re.compile(r"(?:/.*|_nchwc|_token_\d+|_quant|[._](?:weight|bias)(?:[._].*)?)*")


@dataclass(frozen=True, kw_only=True)
class OperationTimes:
    """One run of an engine, divided among the operations of the network.

    Attributes:
        milliseconds: By operation; one that no layer names is missing.
        elsewhere: Of the layers that name no operation: reorders, concats, decoding.
    """

    milliseconds: Mapping[str, float]
    elsewhere: float


def fastest_times(runs: Sequence[Sequence[LayerTime]]) -> tuple[LayerTime, ...]:
    """Returns the least time of each layer over runs that list the same layers in the same order.

    Other work on the machine only ever adds to a time.
    """
    assert runs
    times = np.min([[layer.milliseconds for layer in run] for run in runs], axis=0)
    return tuple(
        LayerTime(name=layer.name, milliseconds=float(time))
        for layer, time in zip(runs[0], times, strict=True)
    )


def operation_times(layers: Sequence[LayerTime], names: Mapping[str, str]) -> OperationTimes:
    """Divides layers among operations; one into which several are fused counts equally for each.

    Args:
        layers: As :meth:`quantpipe.engines.contract.Engine.profile` returns them.
        names: The operation behind each name that a layer of it may carry: that of its node, or
            of the tensor that it computes
            (:func:`quantpipe.graph.operations.operation_aliases`).
    """
    times: dict[str, float] = {}
    elsewhere = 0.0
    for layer in layers:
        found = sorted({names[name] for name in names_within(layer.name, names)})
        if not found:
            elsewhere += layer.milliseconds
        for operation in found:
            times[operation] = times.get(operation, 0.0) + layer.milliseconds / len(found)
    return OperationTimes(milliseconds=times, elsewhere=elsewhere)


def names_within(text: str, names: Mapping[str, str]) -> set[str]:
    """Returns the keys of ``names`` that a layer's name is made of, without what libraries add."""
    if text.startswith(_COPY):
        return set()
    found = set()
    for part in _FUSED.split(text):
        for end in range(len(part), 0, -1):
            if part[:end] in names and _PART.fullmatch(part, end):
                found.add(part[:end])
                break
    return found
