"""Files as the original trainer wrote them give every tensor and class, whatever wrote them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.detector.released.original_trainer import (
    Archive,
    Numpy,
    original_network,
    save_original,
)
from torch import nn

from quantpipe.detector.released.tensors import read_network, read_state, split_quantizers
from quantpipe.errors import ArtifactError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    parts = {"conv": nn.Conv2d(3, 4, 3), "bn": nn.BatchNorm2d(4), "act": nn.SiLU()}
    return nn.Sequential(OrderedDict(parts))


@pytest.mark.parametrize("numpy", ["1", "2"])
@pytest.mark.parametrize("archive", ["torch 1.8", "now"])
def test_a_training_checkpoint_of_any_age_is_read(
    archive: Archive, numpy: Numpy, tmp_path: Path
) -> None:
    original = network()
    with original_network(original, calibrated=True, half=False) as module:
        path = save_original(tmp_path / "calib.pt", module, numpy=numpy, archive=archive)
        expected = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    content = path.read_bytes()
    core = b"numpy.core.multiarray" if numpy == "1" else b"numpy._core.multiarray"
    # The functions that are named without running: of numbers, of texts, and a bound method.
    assert all(name in content for name in (core, b"_codecs\nencode", b"__builtin__\ngetattr"))
    read = read_network(path)
    assert list(read.tensors) == list(expected)
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in expected.items())
    assert read.classes["act"] == "torch.nn.modules.activation.SiLU"
    assert read.classes["conv"] == "pytorch_quantization.nn.modules.quant_conv.QuantConv2d"
    assert read.classes[""] == "yolov6.models.yolo.Model"
    plain, quantizers = split_quantizers(read.tensors)
    assert plain.keys() == original.state_dict().keys()
    assert set(quantizers) == {
        "conv._input_quantizer._amax",
        "conv._weight_quantizer._amax",
    }


def test_quantizers_of_tensors_are_told_from_the_network() -> None:
    names = ("neck.upsample_feat0_quant._amax", "neck.quantity.weight")
    plain, quantizers = split_quantizers({name: torch.ones(1) for name in names})
    assert (list(plain), list(quantizers)) == ([names[1]], [names[0]])


@pytest.mark.parametrize("key", ["ema", "model", "state_dict", None])
@pytest.mark.parametrize("wrapper", ["", "module.", "model."])
def test_tensors_alone_are_read_without_the_level_of_a_wrapper(
    key: str | None, wrapper: str, tmp_path: Path
) -> None:
    state = network().state_dict()  # with torch's attributes of a state dict
    wrapped = type(state)((f"{wrapper}{name}", tensor) for name, tensor in state.items())
    wrapped._metadata = state._metadata  # type: ignore[attr-defined]
    more = {"epoch": 3, "results": np.float64(0.1)}
    torch.save(wrapped if key is None else {key: wrapped, **more}, tmp_path / "a.pt")
    read = read_network(tmp_path / "a.pt")
    assert list(read.tensors) == list(state)
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in state.items())
    assert read.classes == {}


def test_a_wrapped_network_gives_its_own_names(tmp_path: Path) -> None:
    inside = network()
    torch.save({"model": nn.Sequential(OrderedDict(module=inside))}, tmp_path / "a.pt")
    read = read_network(tmp_path / "a.pt")
    assert list(read.tensors) == list(inside.state_dict())
    assert read.classes["act"] == "torch.nn.modules.activation.SiLU"


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"state_dict": {"a.weight": torch.ones(1), "epoch": 3}}, "'epoch' is no tensor"),
        ({"state_dict": {}, "epoch": 3}, "found 'state_dict', 'epoch'"),
        ({"weights": {"a": torch.ones(1)}, "epoch": 3}, "found 'weights', 'epoch'"),
        ([torch.ones(1)], "'ema', 'model' or 'state_dict', found none of them"),
    ],
)
def test_what_is_missing_is_said(value: Any, match: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(ArtifactError, match=match) as fault:
        read_state(tmp_path / "a.pt")
    assert "\n" not in str(fault.value)
    assert "holds no model" in str(fault.value)


def test_modules_that_multiply_end_the_reading(tmp_path: Path) -> None:
    """Thirty levels, each of which holds the next one twice: a thousand million paths."""
    module: nn.Module = nn.Sequential()
    for _ in range(30):
        module = nn.Sequential(module, module)
    torch.save({"model": module}, tmp_path / "a.pt")
    with pytest.raises(ArtifactError, match="or are too many"):
        read_state(tmp_path / "a.pt")
