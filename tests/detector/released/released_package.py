"""Pickles as the public package writes them, from stand-ins that exist only while they are made."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

PACKAGES = ("yolov6", "yolov6.models", "yolov6.models.yolo", "yolov6.layers.common")


@contextmanager
def released_classes() -> Iterator[tuple[type[nn.Module], type[nn.Module]]]:
    """A model class and a layer class that can be pickled by name, until the end."""
    modules = {name: ModuleType(name) for name in PACKAGES}
    model = type("Model", (nn.Module,), {"__module__": "yolov6.models.yolo"})
    layer = type("Layer", (nn.Module,), {"__module__": "yolov6.layers.common"})
    modules["yolov6.models.yolo"].Model = model  # type: ignore[attr-defined]
    modules["yolov6.layers.common"].Layer = layer  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        yield model, layer
    finally:
        for name in PACKAGES:
            del sys.modules[name]


def save_released(path: Path, tensors: Mapping[str, Tensor], **more: Any) -> Path:
    """Writes {"model": module in half precision, ...} with these tensors; returns the path.

    A value of ``more`` that is a mapping of tensors becomes a module too.
    """
    with released_classes() as classes:
        found: dict[str, Any] = {"epoch": 299, "optimizer": None, "updates": 12}
        for name, value in {"model": tensors, **more}.items():
            found[name] = _module(value, *classes) if isinstance(value, Mapping) else value
        torch.save(found, path)
    return path


def first_generation(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names as 0.2.0 has them: no ``sppf.`` level, no ``block.`` level."""
    renamed = {}
    for name, tensor in tensors.items():
        short = name.replace(".sppf.", ".").replace(".block.conv.", ".conv.")
        renamed[short.replace(".block.bn.", ".bn.")] = tensor
    assert len(renamed) == len(tensors)
    return renamed


def _module(
    tensors: Mapping[str, Tensor], model: type[nn.Module], layer: type[nn.Module]
) -> nn.Module:
    root = model()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, layer())
            place = place._modules[part]  # type: ignore[assignment]
        # Running statistics and constants are buffers, the rest parameters.
        if last in ("weight", "bias") and tensor.is_floating_point():
            place.register_parameter(last, nn.Parameter(tensor.clone()))
        else:
            place.register_buffer(last, tensor.clone())
    return root.half()
