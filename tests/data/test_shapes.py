from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from quantpipe.data.drawing import KINDS, coverage, outline
from quantpipe.data.images import read_image
from quantpipe.data.shapes import draw_scene, generate_shapes
from quantpipe.progress import Silent


def write(folder: Path, seed: int) -> Path:
    generate_shapes(
        folder,
        num_train=4,
        num_val=3,
        image_size=96,
        num_classes=5,
        seed=seed,
        difficulty=0.5,
        progress=Silent(),
    )
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_arguments_give_the_same_files(tmp_path: Path) -> None:
    first = contents(write(tmp_path / "a", 1))
    assert first == contents(write(tmp_path / "b", 1))
    other = contents(write(tmp_path / "c", 2))
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)
    assert first["train/000000.jpg"] != first["val/000000.jpg"]


@pytest.mark.parametrize("kind", KINDS)
def test_coverage_and_box_match_an_independent_rasterization(kind: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(6):
        angle = rng.uniform(0, 6)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = (outline(kind) @ turn.T * rng.uniform(6, 20) + rng.uniform(5, 45, 2)).astype(
            np.float32
        )
        alpha, (left, top) = coverage(corners, 50, 40)
        fine = (np.arange(50 * 16) + 0.5) / 16
        x, y = np.meshgrid(fine, fine[: 40 * 16])
        inside = Outline(corners).contains_points(np.stack((x.ravel(), y.ravel()), axis=1))
        share = inside.reshape(40, 16, 50, 16).mean(axis=(1, 3))
        ours = np.zeros((40, 50))
        ours[top : top + alpha.shape[0], left : left + alpha.shape[1]] = alpha
        assert np.abs(ours - share).max() < 0.3  # at a tip, half a sub-pixel on both sides
        assert np.abs(ours - share).mean() < 0.01
        assert alpha[0].any()
        assert alpha[-1].any()
        assert alpha[:, 0].any()
        assert alpha[:, -1].any()
        rows, columns = np.nonzero(share > 0.3)
        assert left <= columns.min()
        assert columns.max() < left + alpha.shape[1]
        assert top <= rows.min()
        assert rows.max() < top + alpha.shape[0]


def test_nothing_is_visible_outside() -> None:
    alpha, _ = coverage(outline("star") * 5 - 100, 40, 40)
    assert alpha.size == 0


def test_scenes_hold_objects_of_a_fair_size() -> None:
    sides, labels, numbers = [], [], []
    for index in range(40):
        picture, objects = draw_scene(160, 5, 0.5, np.random.default_rng(index))
        assert picture.shape == (160, 160, 3)
        numbers.append(len(objects))
        for drawn in objects:
            x, y, width, height = drawn.bbox
            assert min(x, y) >= 0
            assert max(x + width, y + height) <= 160
            assert 0 < drawn.area <= width * height
            sides += [width, height]
            labels.append(drawn.label)
    assert min(sides) >= 12
    assert 3 <= np.mean(numbers) <= 8
    assert np.bincount(labels, minlength=5).min() > 10


def test_harder_is_fainter() -> None:
    def contrast(difficulty: float) -> float:
        steps = []
        for index in range(25):
            picture, objects = draw_scene(160, 1, difficulty, np.random.default_rng(index))
            for drawn in objects:
                x, y, width, height = drawn.bbox
                middle = picture[y + height // 2 - 2 : y + height // 2 + 2]
                inner = middle[:, x + width // 2 - 2 : x + width // 2 + 2].mean(axis=(0, 1))
                edge = picture[y : y + height, x : x + width]
                corner = np.concatenate([edge[:2, :2], edge[-2:, -2:]]).mean(axis=(0, 1))
                steps.append(np.linalg.norm(inner - corner))
        return float(np.mean(steps))

    assert contrast(1.0) < contrast(0.0) - 10


def test_pictures_survive_their_compression(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    picture, objects = draw_scene(96, 5, 0.5, np.random.default_rng((1, 0, 2)))
    stored = read_image(folder / "train" / "000002.jpg")
    assert np.abs(stored.astype(int) - picture).mean() < 4
    document = json.loads((folder / "annotations" / "instances_train.json").read_text())
    boxes = [a["bbox"] for a in document["annotations"] if a["image_id"] == 3]
    assert boxes == [list(drawn.bbox) for drawn in objects]
