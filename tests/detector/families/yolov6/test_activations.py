"""A network of other activations under the same names is refused by the classes in the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tests.detector.families.yolov6.test_released import CLASSES, SMALL, trained
from tests.detector.released.original_trainer import original_network, save_original
from torch import nn

from quantpipe.detector.families.yolov6.activations import require_activations
from quantpipe.detector.families.yolov6.architecture import Architecture, BlockForm
from quantpipe.detector.families.yolov6.family import architecture
from quantpipe.detector.families.yolov6.released import read_released_checkpoint
from quantpipe.errors import ArtifactError


@pytest.fixture(scope="module")
def small() -> Architecture:
    return architecture(SMALL, num_classes=len(CLASSES))


def saved(
    shape: Architecture,
    form: BlockForm,
    replaced: Mapping[type[nn.Module], type[nn.Module]],
    path: Path,
) -> Path:
    with original_network(trained(shape, form), calibrated=False, replaced=replaced) as module:
        return save_original(path, module)


@pytest.mark.parametrize(
    ("form", "replaced", "match"),
    [
        ("repopt", {nn.ReLU: nn.SiLU}, "SiLU in 41 blocks, 'backbone.stem' first, where small has"),
        ("repvgg", {nn.ReLU: nn.Hardswish}, "Hardswish in 41 blocks, 'backbone.stem' first, "),
        ("repopt", {nn.ReLU: nn.Identity}, "Identity in 41 blocks, 'backbone.stem' first, where"),
        ("repopt", {nn.SiLU: nn.ReLU}, "ReLU in 9 blocks, 'detect.stems.0' first, where small has"),
    ],
)
def test_another_activation_is_named(
    small: Architecture,
    form: BlockForm,
    replaced: Mapping[type[nn.Module], type[nn.Module]],
    match: str,
    tmp_path: Path,
) -> None:
    path = saved(small, form, replaced, tmp_path / "public.pt")
    with pytest.raises(ArtifactError, match=match) as fault:
        read_released_checkpoint(path, SMALL, CLASSES)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("form", ["repopt", "repvgg"])
def test_the_networks_own_activations_pass_without_a_word(
    small: Architecture, form: BlockForm, tmp_path: Path
) -> None:
    taken = read_released_checkpoint(saved(small, form, {}, tmp_path / "a.pt"), SMALL, CLASSES)
    assert taken.notes == ()


def test_one_block_of_another_kind_is_enough(small: Architecture, tmp_path: Path) -> None:
    with original_network(trained(small, "repopt"), calibrated=False) as module:
        module.get_submodule("neck.Rep_n4.conv1").add_module("act", nn.SiLU())
        path = save_original(tmp_path / "public.pt", module)
    with pytest.raises(ArtifactError, match=r"has SiLU in 1 blocks, 'neck.Rep_n4.conv1' first"):
        read_released_checkpoint(path, SMALL, CLASSES)


@pytest.mark.parametrize("level", ["act", "nonlinearity", "relu"])
def test_an_activation_is_found_whatever_it_is_called(small: Architecture, level: str) -> None:
    classes = {f"backbone.stem.{level}": "torch.nn.modules.activation.SiLU"}
    with pytest.raises(ArtifactError, match=r"has SiLU in 1 blocks, 'backbone\.stem' first"):
        require_activations(classes, small, Path("a.pt"))


def test_first_generation_names_are_the_same_blocks(small: Architecture) -> None:
    for stem in ("detect.stems.0", "detect.stems.0.block"):
        classes = {f"{stem}.act": "torch.nn.modules.activation.ReLU"}
        with pytest.raises(ArtifactError, match=r"'detect\.stems\.0' first, where small has SiLU"):
            require_activations(classes, small, Path("a.pt"))


def test_what_a_file_does_not_name_is_said_to_be_taken_for_granted(
    small: Architecture, tmp_path: Path
) -> None:
    torch.save({"state_dict": trained(small, "repopt").state_dict()}, tmp_path / "a.pt")
    (note,) = read_released_checkpoint(tmp_path / "a.pt", SMALL, CLASSES).notes
    assert note == (
        "the file names no classes: its activations are taken to be ReLU and SiLU, as in small"
    )
    classes = {"backbone.stem.act": "torch.nn.modules.activation.ReLU"}
    (note,) = require_activations(classes, small, Path("a.pt"))
    assert note.startswith("the file names no activation of 49 blocks, 'backbone.ERBlock_2.0' ")
