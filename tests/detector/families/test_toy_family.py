"""A family that is only in the tests goes through the whole recipe: nothing else knows of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.detector.families.toy_family import (
    CELL,
    MEAN,
    STD,
    TOY,
    ToyNetwork,
    toy_checkpoint,
    toy_input,
)
from tests.detector.families.toy_training import TRAINED_TOY

from quantpipe.cli import command
from quantpipe.data.network_input import as_array
from quantpipe.detector.checkpoint_family import as_deployed, operation_names, restore_detector
from quantpipe.detector.checkpoint_file import load_checkpoint, save_checkpoint
from quantpipe.detector.families import FAMILIES
from quantpipe.detector.families.implementation import raw_prediction
from quantpipe.engines.registry import load_engine
from quantpipe.quantization.precision_plan import load_plan
from quantpipe.quantization.scale_cache import load_scales

LOSS = "family: toy\nside_weight: 1.0\n"
MODEL = "family: toy\nname: toy\nimage_size: [48, 80]\n"
CLASSES = ("circle", "square")
OPERATIONS = ("layers.0", "layers.2", "layers.4", "layers.6", "head")
SMALL = (
    *("device=cpu", "pipelines=partial_quant", "model=toy", "engine=onnxruntime"),
    *("data.image_size=96", "data.num_train=8", "data.num_val=4", "data.num_classes=2"),
    *("data.difficulty=0", "calibrate.num_images=4", "calibrate.batch_size=2"),
    *("sensitivity.num_images=4", "sensitivity.batch_size=2", "partial_quant.quant_boundary=2"),
    *("evaluate.num_warmup=0", "evaluate.num_runs=2", "evaluate.parity.num_images=4"),
    *("evaluate.num_examples=1", "engine.batch_sizes=[1,4]", "export.simplify=false"),
    *("run_dir=run", "cache_dir=cache", "train_repopt.checkpoint=toy.safetensors"),
)


@pytest.fixture(autouse=True)
def _in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(FAMILIES, dict)
    monkeypatch.setitem(FAMILIES, "toy", TOY)


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> None:
    for group, text in (("model", MODEL), ("loss", LOSS)):
        (folder / "conf" / group).mkdir(parents=True, exist_ok=True)
        (folder / "conf" / group / "toy.yaml").write_text(text)
    save_checkpoint(folder / "toy.safetensors", toy_checkpoint(CLASSES))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["quantpipe", "--config-dir", "conf", *SMALL, *overrides])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0, ended.value.code


def decoded(raw: NDArray[np.float32], height: int, width: int) -> NDArray[np.float64]:
    """What the toy's layout means, cell by cell."""
    _, channels, rows, columns = raw.shape
    sigmoid = 1 / (1 + np.exp(-raw.astype(np.float64)))
    found = np.zeros((len(raw), rows * columns, channels))
    for row in range(rows):
        for column in range(columns):
            cell, values = row * columns + column, raw[:, :, row, column].astype(np.float64)
            found[:, cell, 0] = (column + 0.5) * CELL + np.tanh(values[:, 1]) * CELL
            found[:, cell, 1] = (row + 0.5) * CELL + np.tanh(values[:, 2]) * CELL
            found[:, cell, 2] = sigmoid[:, 3, row, column] * width
            found[:, cell, 3] = sigmoid[:, 4, row, column] * height
            found[:, cell, 4] = sigmoid[:, 0, row, column]
            found[:, cell, 5:] = sigmoid[:, 5:, row, column]
    return found


def test_decoding_gives_boxes_in_pixels_and_scores_and_the_raw_form_says_the_same() -> None:
    checkpoint = toy_checkpoint(CLASSES)
    network = restore_detector(checkpoint)
    assert isinstance(network, ToyNetwork)
    images = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = network(images).numpy()
        raw = raw_prediction(network, images)
        expected = decoded(network.raw(images).numpy(), 48, 80)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    scores = expected[..., 4:5] * expected[..., 5:]
    np.testing.assert_allclose(raw.class_logits.sigmoid().numpy(), scores, atol=1e-5)
    left_top, right_bottom = np.split(raw.distances.numpy(), 2, axis=2)
    np.testing.assert_allclose(left_top + right_bottom, expected[..., 2:4], rtol=1e-4, atol=1e-4)


def test_the_whole_recipe_runs_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, tmp_path)
    folder = tmp_path / "run"
    model = folder / "partial_quant"
    checkpoint = load_checkpoint(model / "checkpoint.safetensors")
    assert (checkpoint.family, checkpoint.input) == ("toy", toy_input())
    assert as_deployed(checkpoint) is checkpoint
    assert operation_names(checkpoint) == OPERATIONS
    scales = load_scales(model / "scales.json")
    assert set(scales.operations()) == set(OPERATIONS)
    assert (scales.preprocessing["colors"], scales.preprocessing["height"]) == ("bgr", 48)
    assert len(load_plan(model / "plan.json").quantized) == 3
    variants = json.loads((folder / "evaluate" / "metrics.json").read_text())["variants"]
    assert {v["name"] for v in variants} == {"fp32", "ptq", "partial"}
    assert {v["image_size"] for v in variants} == {"48x80"}
    assert all(v["parity"]["mean_abs"] < 1 for v in variants)

    engine = load_engine("onnxruntime", folder / "build_engine" / "fp32" / "model.engine")
    picture = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    stretched = torch.from_numpy(picture).permute(2, 0, 1)[None]
    images = as_array(checkpoint.input)(stretched)
    blue_first = picture[..., ::-1].astype(np.float32).transpose(2, 0, 1)
    mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (MEAN, STD))
    by_hand = (blue_first - mean) / std
    np.testing.assert_array_equal(images[0], by_hand)
    network = restore_detector(checkpoint)
    assert isinstance(network, ToyNetwork)
    with torch.no_grad():
        expected = decoded(network.raw(torch.from_numpy(images)).numpy(), 48, 80)
    try:
        np.testing.assert_allclose(engine.run(images), expected, rtol=1e-3, atol=1e-3)
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("train_repopt.checkpoint=null",), "family toy cannot be trained from labels"),
        (("sensitivity.method=loss",), "family toy has no loss; take gradient, output or map"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: tuple[str, ...],
    line: str,
) -> None:
    with pytest.raises(AssertionError):
        run(monkeypatch, tmp_path, *overrides)
    assert line in capsys.readouterr().err


TRAINED = (
    *("train_repopt.checkpoint=null", "train_repopt.form=plain", "train_repopt.epochs=4"),
    *("train_repopt.batch_size=4", "train_repopt.validate_every=4", "sensitivity.method=loss"),
    *("pipeline.steps=[train_repopt,calibrate,sensitivity]", "train_repopt.lr=0.002"),
)
OWN_LOSS = ("loss@train_repopt.loss=toy", "loss@sensitivity.loss=toy")


def test_with_a_loss_of_its_own_it_is_trained_and_ranked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(FAMILIES, dict)
    monkeypatch.setitem(FAMILIES, "toy", TRAINED_TOY)
    run(monkeypatch, tmp_path, *TRAINED, *OWN_LOSS)
    folder = tmp_path / "run"
    losses = [
        epoch["loss"]
        for epoch in json.loads((folder / "train_repopt" / "history.json").read_text())["train"]
    ]
    assert losses[-1] < 0.7 * losses[0]
    table = json.loads((folder / "sensitivity" / "sensitivity.json").read_text())
    assert {row["name"] for row in table["rows"]} == set(OPERATIONS)


@pytest.mark.parametrize("step", ["train_repopt", "sensitivity"])
def test_the_numbers_of_another_loss_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    assert isinstance(FAMILIES, dict)
    monkeypatch.setitem(FAMILIES, "toy", TRAINED_TOY)
    own = [override for override in OWN_LOSS if step not in override]
    with pytest.raises(AssertionError):
        run(monkeypatch, tmp_path, *TRAINED, *own)
    line = f"{step}.loss: they are those of family yolov6, not toy"
    assert line in capsys.readouterr().err
