from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.anchors import anchor_points, decode_boxes
from quantpipe.detector.families.yolov6.architecture import STRIDES, Architecture, BlockForm
from quantpipe.detector.families.yolov6.network import (
    Detector,
    build_detector,
    fold_batch_norm,
    uninitialized_detector,
)

BatchNormState = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _images(batch: int, height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize(("width", "millions"), [(0.25, 4.32), (0.5, 17.23)])
def test_published_sizes(
    make_architecture: Callable[..., Architecture], width: float, millions: float
) -> None:
    detector = uninitialized_detector(make_architecture(width=width, num_classes=80), "repopt")
    assert round(sum(p.numel() for p in detector.parameters()) / 1e6, 2) == millions
    kinds = [type(module) for module in detector.modules()]
    assert kinds.count(nn.Conv2d) == 57
    assert kinds.count(nn.ConvTranspose2d) == 2
    assert kinds.count(nn.MaxPool2d) == 1


def _documented_names() -> Iterator[str]:
    """Yields the state dict of the RepOpt form at depth 0.33, as released checkpoints name it."""
    blocks = ["backbone.stem"]
    runs = {f"backbone.ERBlock_{k}.1": n for k, n in ((2, 2), (3, 4), (4, 6), (5, 2))}
    blocks += [f"backbone.ERBlock_{k}.0" for k in (2, 3, 4, 5)]
    runs |= {f"neck.Rep_{name}": 4 for name in ("p4", "p3", "n3", "n4")}
    for run, depth in runs.items():
        blocks += [f"{run}.conv1", *(f"{run}.block.{i}" for i in range(depth - 1))]
    layers = [f"backbone.ERBlock_5.2.sppf.cv{i}" for i in (1, 2)]
    layers += [f"neck.{name}{i}" for name, i in (("reduce_layer", 0), ("reduce_layer", 1))]
    layers += ["neck.downsample1", "neck.downsample2"]
    layers += [f"detect.{n}.{i}" for n in ("stems", "cls_convs", "reg_convs") for i in range(3)]
    for block in (*blocks, *(f"{layer}.block" for layer in layers)):
        yield f"{block}.conv.weight"
        yield from (f"{block}.bn.{state}" for state in BatchNormState)
    biased = [f"neck.upsample{i}.upsample_transpose" for i in (0, 1)]
    biased += [f"detect.{name}_preds.{i}" for name in ("cls", "reg") for i in range(3)]
    for conv in biased:
        yield from (f"{conv}.weight", f"{conv}.bias")
    yield from ("detect.proj", "detect.proj_conv.weight")


def test_state_dict_has_the_public_names(
    make_architecture: Callable[..., Architecture],
) -> None:
    names = list(uninitialized_detector(make_architecture(), "repopt").state_dict())
    assert sorted(names) == sorted(_documented_names())


def test_forward_decodes_what_predict_returns(make_settled: Callable[..., Detector]) -> None:
    detector = make_settled("repopt")
    images = _images(2)
    with torch.no_grad():
        output, raw = detector(images), detector.predict(images)
    sizes = [(f.shape[2], f.shape[3]) for f in raw.features]
    assert sizes == [(8, 12), (4, 6), (2, 3)]
    boxes = decode_boxes(raw.distances, *anchor_points(sizes, STRIDES, "cpu"))
    half = output[..., 2:4] / 2
    corners = torch.cat([output[..., :2] - half, output[..., :2] + half], dim=-1)
    torch.testing.assert_close(corners, boxes, rtol=1e-5, atol=1e-4)
    assert torch.equal(output[..., 4], torch.ones(2, 126))
    torch.testing.assert_close(output[..., 5:], 1 / (1 + torch.exp(-raw.class_logits)))


@pytest.mark.parametrize("form", ["repvgg", "linear_add", "repopt", "deploy"])
def test_gradients_reach_every_trainable_parameter(
    architecture: Architecture, form: BlockForm
) -> None:
    detector = build_detector(architecture, form, seed=0).train()
    raw = detector.predict(_images(2))
    (raw.class_logits.square().mean() + raw.distances.square().mean()).backward()  # type: ignore[no-untyped-call]
    idle = [n for n, p in detector.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == ["detect.proj_conv.weight"]


@pytest.mark.parametrize("width", [0.0625, 0.1, 0.25])
def test_narrow_networks_run(make_architecture: Callable[..., Architecture], width: float) -> None:
    detector = build_detector(make_architecture(width=width), "deploy", seed=0)
    assert detector(_images(1)).shape == (1, 126, 8)
    channels = {
        m.out_channels for m in detector.backbone.stem.modules() if isinstance(m, nn.Conv2d)
    }
    assert all(c % 8 == 0 for c in channels)


def test_sizes_that_do_not_fit_the_grid_are_refused(architecture: Architecture) -> None:
    detector = build_detector(architecture, "deploy", seed=0)
    with pytest.raises(AssertionError, match="width 80 is not a multiple of 32"):
        detector(_images(1, 64, 80))


def test_boxes_stay_exact_under_autocast(make_settled: Callable[..., Detector]) -> None:
    detector = make_settled("deploy")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        raw = detector.predict(_images(1, 32, 1024))
        output = detector(_images(1, 32, 1024))
    assert raw.distances.dtype == torch.bfloat16
    assert output.dtype == torch.float32
    sizes = [(f.shape[2], f.shape[3]) for f in raw.features]
    boxes = decode_boxes(raw.distances.float(), *anchor_points(sizes, STRIDES, "cpu"))
    torch.testing.assert_close(output[..., 0], boxes[..., ::2].mean(dim=-1), rtol=1e-6, atol=1e-3)


def test_memory_format_and_copies_do_not_matter(make_settled: Callable[..., Detector]) -> None:
    detector = make_settled("repopt")
    images = _images(2)
    other = copy.deepcopy(detector).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        last = other(images.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(last, detector(images), rtol=1e-4, atol=1e-3)


def test_exported_program_takes_any_batch(make_settled: Callable[..., Detector]) -> None:
    deployed = fold_batch_norm(make_settled("repopt"))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(deployed, (_images(2),), dynamic_shapes=({0: batch},))
    for size in (1, 5):
        images = _images(size)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(images), deployed(images))


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\).:FutureWarning")
def test_onnx_graph_takes_any_batch_and_keeps_names(
    make_settled: Callable[..., Detector], tmp_path: Path
) -> None:
    deployed = fold_batch_norm(make_settled("repopt"))
    program = torch.onnx.export(
        deployed,
        (_images(2),),
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
    )
    assert program is not None
    program.save(tmp_path / "model.onnx")
    weights = {n for n, p in deployed.named_parameters() if n.endswith("weight")}
    assert weights - set(program.model.graph.initializers) == {"detect.proj_conv.weight"}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    images = _images(3)
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(output), deployed(images), rtol=1e-4, atol=1e-3)
