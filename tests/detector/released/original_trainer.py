"""Files as the original trainer writes them, from whole modules and the toolkit's own quantizers.

Convolutions are the toolkit's quantized modules, their weight ranges are what its calibrators find
in the weights as they stand, in front of BatchNorm unless torch's own fusion was applied; a
``forward`` is a bound method, the results are numpy numbers, and everything is in half precision
unless said otherwise.
"""

from __future__ import annotations

import copy
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tests.detector.released.released_package import released_classes
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from quantpipe.quantization.calibration.pytorch_quantization import (
    pytorch_quantization_calibrators,
)

Archive = Literal["torch 1.8", "now"]
Numpy = Literal["1", "2"]
TORCH_LAYERS = "torch.nn"


def forward_fuse(network: nn.Module, images: Tensor) -> Tensor:
    """The method that the trainer puts in place of ``forward``."""
    return images


@contextmanager
def original_network(
    network: nn.Module,
    *,
    calibrated: bool,
    folded: Callable[[str], bool] = lambda _: False,
    half: bool = True,
    replaced: Mapping[type[nn.Module], type[nn.Module]] | None = None,
    per_tensor: bool = False,
) -> Iterator[nn.Module]:
    """Yields the network in modules of the released package, which can be pickled until the end.

    Args:
        network: Whose tensors and names are taken.
        calibrated: Whether the convolutions are quantized, with a range of input and weight.
        folded: Which modules, by the path of a BatchNorm's parent, had it folded first.
        half: Whether it is saved in half precision.
        replaced: Activations of another class.
        per_tensor: One range for all channels of a weight.
    """
    source = copy.deepcopy(network).eval()
    for path, module in list(source.named_modules()):
        if isinstance(getattr(module, "bn", None), nn.BatchNorm2d) and folded(path):
            _fold(module)
    with released_classes() as (model, layer):
        model.forward_fuse = forward_fuse  # type: ignore[attr-defined]
        made = _copied(source, model, layer, replaced or {})
        if calibrated:
            _quantize(made, per_tensor=per_tensor)
        made = made.half() if half else made
        made.forward = made.forward_fuse  # type: ignore[assignment]
        yield made


def save_original(
    path: Path, network: nn.Module, *, numpy: Numpy = "2", archive: Archive = "now", **more: Any
) -> Path:
    """Writes what the trainer writes beside a network, and returns the path."""
    content = {
        "model": network,
        "ema": None,
        "updates": 12,
        "epoch": 299,
        "results": (np.float64(0.303), np.float32(0.17), np.int64(7), np.bool_(True)),
        "optimizer": {"param_groups": [{"momentum": np.float64(0.937), "lr": np.arange(2.0)}]},
        **more,
    }
    whole = _now(content) if archive == "now" else _torch_1_8(content)
    if numpy == "1":
        pickles = [name for name in whole if name.endswith("/data.pkl")]
        whole[pickles[0]] = whole[pickles[0]].replace(b"cnumpy._core.", b"cnumpy.core.")
    with zipfile.ZipFile(path, "w") as writer:
        for name, member in whole.items():
            writer.writestr(name, member)
    return path


def _now(content: Any) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as reader:
        return {name: reader.read(name) for name in reader.namelist()}


def _torch_1_8(content: Any) -> dict[str, bytes]:
    """Storages under their addresses, no byte order and no records of the writer."""
    members: dict[str, bytes] = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if not isinstance(obj, torch.storage.TypedStorage):
                return None
            storage: Any = obj
            raw = storage._untyped_storage
            key = str(94_000_000_000_000 + raw._cdata)
            members[f"archive/data/{key}"] = bytes(raw.tolist())
            kind = getattr(torch, storage._pickle_storage_type())
            return "storage", kind, key, "cuda:0", storage._size()

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(content)
    return {"archive/data.pkl": buffer.getvalue(), **members, "archive/version": b"3\n"}


def _fold(module: nn.Module) -> None:
    conv, norm = module.conv, module.bn
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    module.conv = fuse_conv_bn_eval(conv, norm)
    del module.bn


def _copied(
    module: nn.Module,
    kind: type[nn.Module],
    layer: type[nn.Module],
    replaced: Mapping[type[nn.Module], type[nn.Module]],
) -> nn.Module:
    """A module of torch as it is, another as one of the package that has the same parts."""
    if type(module) in replaced:
        return replaced[type(module)]()
    if type(module).__module__.startswith(TORCH_LAYERS) and not list(module.children()):
        return module
    made = kind()
    for name, parameter in module.named_parameters(recurse=False):
        made.register_parameter(name, parameter)
    for name, tensor in module.named_buffers(recurse=False):
        made.register_buffer(name, tensor)
    for name, child in module.named_children():
        made.add_module(name, _copied(child, layer, layer, replaced))
    return made


def _quantize(network: nn.Module, *, per_tensor: bool) -> None:
    """Replaces what the toolkit quantizes, with the ranges that its calibrators find."""
    pytorch_quantization_calibrators()  # imports it with its warnings contained
    from pytorch_quantization import nn as toolkit

    generator = torch.Generator().manual_seed(5)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            quantized = _quantized(child, toolkit)
            if quantized is None:
                continue
            amax = 0.5 + torch.rand((), generator=generator)
            quantized._input_quantizer.register_buffer("_amax", amax.half().float())
            if isinstance(child, nn.Conv2d | nn.ConvTranspose2d):
                _calibrate(quantized, child.weight, per_tensor=per_tensor)
            setattr(parent, name, quantized)


def _quantized(child: nn.Module, toolkit: Any) -> Any:
    match child:
        case nn.Conv2d() | nn.ConvTranspose2d():
            kind = getattr(toolkit, f"Quant{type(child).__name__}")
            made = kind(
                child.in_channels, child.out_channels, child.kernel_size, child.stride,
                child.padding, bias=child.bias is not None,
            )  # fmt: skip
            made.load_state_dict(child.state_dict(), strict=False)
            return made
        case nn.MaxPool2d():
            return toolkit.QuantMaxPool2d(child.kernel_size, child.stride, child.padding)
        case _:
            return None


def _calibrate(quantized: Any, weight: Tensor, *, per_tensor: bool) -> None:
    quantizer = quantized._weight_quantizer
    if per_tensor:
        quantizer._calibrator._axis = None
    quantizer._calibrator.collect(weight.detach())
    quantizer.register_buffer("_amax", quantizer._calibrator.compute_amax())
