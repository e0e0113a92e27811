"""The layers of a plan, as TensorRT's inspector describes them: JSON of 8.6 and 10, and of 11."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from quantpipe.engines.contract import EngineLayer

_QUANTIZABLE = ("conv", "pool")  # also within CaskConvolution, Deconvolution, TiledPooling, ...
# In the order in which they are looked for: one word may hold another.
_TYPES: Mapping[str, str] = {
    "int8": "int8",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "half": "fp16",
    "fp16": "fp16",
    "float": "fp32",
    "fp32": "fp32",
}
# Kernels are named by the types they multiply: sm80_xmma_fprop_implicit_gemm_i8i8_i8i32_f32_...
_KERNELS: Mapping[str, str] = {"i8": "int8", "bf16": "bf16", "f16": "fp16", "f32": "fp32"}
_UNKNOWN = "n/a"  # "N/A due to dynamic shapes"
_ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)(?: \||\])")
_FUSED = re.compile(r" \+ | \|\| |, ")
_COPY = "Reformat"  # between two layers that its name and metadata may hold
# How the layers of all but the first optimization profile are marked.
_PROFILE = re.compile(r" \[profile \d+\]$")


def engine_layers(information: str) -> tuple[EngineLayer, ...]:
    """Reads the engine information of an inspector; the plan has to hold it in detail."""
    return tuple(_layer(entry) for entry in _entries(information))


def layer_names(information: str) -> Mapping[str, str]:
    """Returns by what TensorRT calls a layer the name that :func:`engine_layers` gives it."""
    return {str(entry["Name"]): _name(entry) for entry in _entries(information)}


def _entries(information: str) -> list[Mapping[str, Any]]:
    entries: list[Mapping[str, Any]] = json.loads(information)["Layers"]
    return entries


def _layer(entry: Mapping[str, Any]) -> EngineLayer:
    words = f"{entry.get('ParameterType', '')} {entry.get('LayerType', '')}".lower()
    return EngineLayer(
        name=_name(entry),
        kind=str(entry.get("ParameterType") or entry.get("LayerType")),
        precision=_precision(entry),
        quantizable=any(word in words for word in _QUANTIZABLE),
    )


def _name(entry: Mapping[str, Any]) -> str:
    """Returns a layer's name, or the ONNX nodes it stands for where TensorRT made one up."""
    name = _PROFILE.sub("", str(entry["Name"]))
    nodes = _ONNX_NODE.findall(str(entry.get("Metadata") or ""))
    if entry.get("LayerType") == _COPY or set(nodes) & set(_FUSED.split(name)):
        return name
    return " + ".join(nodes) or name


def _precision(entry: Mapping[str, Any]) -> str:
    """Returns what a layer computes in: the type it reads, else of its weights, else its kernel's.

    TensorRT tells the types of tensors whose shape is not fixed only to a context with shapes, and
    8.6 not even then.
    """
    tensor = (entry.get("Inputs") or [{}])[0]
    read = tensor.get("DataType") or tensor.get("Datatype") or tensor.get("Format/Datatype") or ""
    weights = entry.get("Weights")
    stored = weights.get("Type", "") if isinstance(weights, Mapping) else ""
    kernel = str(entry.get("TacticName") or "")
    for text, words in ((str(read), _TYPES), (str(stored), _TYPES), (kernel, _KERNELS)):
        found = _found(text.lower(), words)
        if found is not None:
            return found
    return "unknown" if not read or str(read).lower().startswith(_UNKNOWN) else str(read)


def _found(text: str, words: Mapping[str, str]) -> str | None:
    return next((precision for word, precision in words.items() if word in text), None)
