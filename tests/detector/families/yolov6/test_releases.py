"""Every release is known by its tensors, and what is not read is called by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.detector.families.yolov6.test_released import CLASSES, sized
from tests.detector.released.released_package import save_released
from torch import Tensor

from quantpipe.detector.families.yolov6.family import architecture
from quantpipe.detector.families.yolov6.network import uninitialized_detector
from quantpipe.detector.families.yolov6.released import read_released_checkpoint
from quantpipe.detector.families.yolov6.releases import describe, release_of
from quantpipe.errors import ArtifactError

STATES = Path(__file__).parents[5] / "shared" / "reference" / "yolov6_states.json"
TITLES = {
    "v0.2 M": "YOLOv6-M of 0.2",
    "v0.2 L": "YOLOv6-L of 0.2",
    "v0.2 L (ReLU)": "YOLOv6-L (ReLU) of 0.2",
    "v0.2.1 N base": "base YOLOv6-N of 0.2.1",
    "v0.2.1 S base": "base YOLOv6-S of 0.2.1",
    "v0.3 N": "YOLOv6-N of 0.3",
    "v0.3 S": "YOLOv6-S of 0.3",
    "v0.3 M": "YOLOv6-M of 0.3",
    "v0.3 L": "YOLOv6-L of 0.3",
    "v0.3 N6": "YOLOv6-N6 of 0.3",
    "v0.3 S6": "YOLOv6-S6 of 0.3",
    "v0.4 N": "YOLOv6-N of 0.4",
    "v0.4 N (anchor branch)": "YOLOv6-N of 0.4",
    "v0.4 N (distilled)": "YOLOv6-N of 0.4",
    "v0.4 S": "YOLOv6-S of 0.4",
    "v0.4 M": "YOLOv6-M of 0.4",
    "v0.4 L": "YOLOv6-L of 0.4",
    "v0.4 N base": "base YOLOv6-N of 0.4",
    "Lite S": "YOLOv6Lite-S",
    "Lite M": "YOLOv6Lite-M",
    "Lite L": "YOLOv6Lite-L",
    "v0.4 S MBLA": "YOLOv6-S MBLA of 0.4",
    "N qa": "YOLOv6-N qa",
}
READ = {"v0.2.1 N base"}


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Tensor]]:
    """Names and shapes of released models, without memory."""
    if not STATES.is_file():
        pytest.skip(f"{STATES} is not there")
    shapes = json.loads(STATES.read_text())
    return {
        title: {name: torch.empty(shape, device="meta") for name, shape in state.items()}
        for title, state in shapes.items()
    }


def test_every_release_has_its_title(states: dict[str, dict[str, Tensor]]) -> None:
    found = {name: release_of(state) for name, state in states.items()}
    assert {name: release and release.title for name, release in found.items()} == TITLES
    assert {name for name, release in found.items() if release and release.choice} == READ


def test_a_release_that_is_not_read_is_refused_by_its_name(
    states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    for name in ("v0.2 M", "v0.3 N", "v0.3 N6", "N qa", "Lite S"):
        tensors = {n: torch.zeros(t.shape) for n, t in states[name].items() if ".num_" not in n}
        small = {n: t for n, t in tensors.items() if t.numel() < 50_000}
        path = save_released(tmp_path / "public.pt", small)
        with pytest.raises(ArtifactError) as fault:
            read_released_checkpoint(path, sized("yolov6n", 0.25), CLASSES)
        line = str(fault.value)
        assert f"is of {TITLES[name]}, a release that is not read yet" in line
        assert "read are N, T and S of 0.2" in line
        assert "model=" not in line
        assert "\n" not in line
        assert TITLES[name] in describe(states[name])


@pytest.mark.parametrize("form", ["repopt", "repvgg", "linear_add", "deploy"])
@pytest.mark.parametrize(
    ("width", "title", "choice"),
    [
        (0.25, "YOLOv6-N of 0.2", "model=yolov6n"),
        (0.375, "YOLOv6-T of 0.2", "model=yolov6t"),
        (0.5, "YOLOv6-S of 0.2", "model=yolov6s"),
        (0.125, "YOLOv6 of width 0.125 of 0.2", "model.width=0.125"),
    ],
)
def test_ours_are_named_with_the_setting_that_reads_them(
    form: str, width: float, title: str, choice: str
) -> None:
    shape = architecture(sized("x", width), num_classes=80)
    found = release_of(uninitialized_detector(shape, form).state_dict())  # type: ignore[arg-type]
    assert found is not None
    assert (found.title, found.choice) == (title, choice)


def test_tensors_of_something_else_show_no_release(tmp_path: Path) -> None:
    tensors = {"features.0.weight": torch.ones(8, 3, 3, 3), "features.0.bias": torch.ones(8)}
    assert release_of(tensors) is None
    torch.save({"state_dict": tensors}, tmp_path / "a.pt")
    with pytest.raises(ArtifactError, match=r"2 tensors, 'features.0.weight' first, are those of"):
        read_released_checkpoint(tmp_path / "a.pt", sized("yolov6n", 0.25), CLASSES)


def test_objectness_is_the_mark_of_the_first_release() -> None:
    shape = architecture(sized("x", 0.25), num_classes=80)
    tensors = uninitialized_detector(shape, "repvgg").state_dict()
    tensors["detect.obj_preds.0.weight"] = torch.empty(1, 32, 1, 1, device="meta")
    found = release_of(tensors)
    assert found is not None
    assert (found.title, found.choice) == ("YOLOv6-N of 0.1", None)
