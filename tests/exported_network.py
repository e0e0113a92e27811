"""A small deployed detector, its float ONNX file and its ranges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from tests.calibrated_scales import calibrated_scales
from tests.yolov6_numbers import narrowed
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.network import build_detector, fold_batch_norm
from quantpipe.export.onnx_graph import export_float, read_graph
from quantpipe.quantization.scale_cache import ScaleCache

IMAGE_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Exported:
    network: nn.Module
    images: Tensor
    path: Path
    graph: onnx.ModelProto
    scales: ScaleCache


def small_network() -> nn.Module:
    architecture = narrowed(depth=0.33, width=0.125, num_classes=3)
    network = fold_batch_norm(build_detector(architecture, "repopt", seed=3)).eval()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.copy_((torch.rand(parameter.shape, generator=generator) - 0.5) * 0.2)
    _normalize(network, torch.rand(4, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator))
    return network


def _normalize(network: nn.Module, images: Tensor) -> None:
    """Gives every convolution an output of deviation 1, so that none is lost in the others."""

    def rescale(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        factor = 1.0 / output.std()
        for parameter in module.parameters():
            parameter.mul_(factor)
        return output * factor

    convolutions = [
        module for module in network.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    hooks = [module.register_forward_hook(rescale) for module in convolutions]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()


def export_small_network(folder: Path) -> Exported:
    """Makes it all; its file is ``folder/float.onnx``."""
    network = small_network()
    images = torch.rand(4, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(5))
    path = folder / "float.onnx"
    export_float(network, path, image_size=(IMAGE_SIZE, IMAGE_SIZE), batch="dynamic", opset=20)
    return Exported(
        network=network,
        images=images,
        path=path,
        graph=read_graph(path),
        scales=calibrated_scales(network, [images]),
    )


def with_wider_boxes(float_graph: onnx.ModelProto) -> onnx.ModelProto:
    """The float graph with boxes two cells larger on each side: they overlap, few have no size."""
    graph = onnx.ModelProto()
    graph.CopyFrom(float_graph)
    for tensor in graph.graph.initializer:
        if tensor.name.startswith("detect.reg_preds") and tensor.name.endswith("bias"):
            wider = onnx.numpy_helper.to_array(tensor) + 2.0
            tensor.CopyFrom(onnx.numpy_helper.from_array(wider.astype("float32"), tensor.name))
    return graph
