"""Whole pipelines, run as a user runs them."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import openvino
import pytest
from safetensors.numpy import load_file
from tests.end_to_end.small_run import Command, read, small

from quantpipe.engines.engine_file import read_engine_file
from quantpipe.engines.registry import ENGINES

pytestmark = pytest.mark.slow

BCCD = Path(__file__).parents[3] / "shared" / "data" / "bccd"
VARIANTS = ["fp32", "half", "ptq", "partial", "qat"]


def test_default_pipeline_leaves_what_it_promises(
    command: Command, finished: subprocess.CompletedProcess[str]
) -> None:
    assert finished.returncode == 0, finished.stderr
    root = command.folder / "outputs" / "runs" / "repopt_qat"
    summary = read(root / "summary.json")
    assert [variant["name"] for variant in summary["variants"]] == VARIANTS
    for variant in summary["variants"]:
        assert 0.0 <= variant["map"] <= 1.0
        assert set(variant["latency_ms"]) == {"b1", "b32"}
        assert variant["name"] in finished.stdout
    assert read(root / "status.json")["state"] == "done"
    page = (root / "report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_int8_engine_holds_integer_kernels(
    command: Command,
    finished: subprocess.CompletedProcess[str],
) -> None:
    runs = command.folder / "outputs" / "runs" / "repopt_qat"
    engine = read_engine_file(runs / "build_engine" / "qat" / "model.engine", ENGINES["openvino"])
    blob = next(iter(engine.blobs.values()))
    network = openvino.Core().import_model(blob, "CPU").get_runtime_model()
    kernels = [
        op.get_rt_info()["runtimePrecision"].astype(str)
        for op in network.get_ordered_ops()
        if op.get_rt_info()["layerType"].astype(str) in ("Convolution", "Deconvolution")
    ]
    assert len(kernels) == 37
    assert set(kernels) <= {"i8", "u8"}


def test_second_run_reuses_every_step(
    command: Command, finished: subprocess.CompletedProcess[str]
) -> None:
    assert finished.returncode == 0, finished.stderr
    again = command.run(*small("repopt_qat"))
    assert again.returncode == 0, again.stderr
    root = command.folder / "outputs" / "runs" / "repopt_qat"
    assert all(stage["reused"] for stage in read(root / "summary.json")["stages"])
    assert again.stderr.count("reused ") >= len(VARIANTS)


def test_sweep_trains_once_and_compares(
    command: Command, finished: subprocess.CompletedProcess[str]
) -> None:
    assert finished.returncode == 0, finished.stderr
    swept = command.run(
        "-m",
        *small("ptq", "calibrate.method=percentile", "calibrate.percentile=99,99.99"),
        "hydra.sweep.dir=sweep",
    )
    assert swept.returncode == 0, swept.stderr
    sweep = read(command.folder / "sweep" / "sweep.json")
    assert [job["failure"] for job in sweep["jobs"]] == [None, None]
    assert any("calibrate.percentile=99.99" in job["overrides"] for job in sweep["jobs"])
    for job in ("0", "1"):
        stages = read(command.folder / "sweep" / job / "summary.json")["stages"]
        assert next(s for s in stages if s["step"] == "train_repopt")["reused"]
    scales = [(command.folder / "sweep" / job / "calibrate" / "scales.json") for job in ("0", "1")]
    assert scales[0].read_bytes() != scales[1].read_bytes()


def test_corrupt_cache_entry_is_set_aside_and_built_again(
    command: Command, finished: subprocess.CompletedProcess[str]
) -> None:
    assert finished.returncode == 0, finished.stderr
    cache = command.folder / "outputs" / "cache"
    manifest = read(command.folder / "outputs" / "runs" / "repopt_qat" / "manifest.json")
    key = manifest["steps"]["calibrate"]["key"]
    damaged = cache / "objects" / key[:2] / key / "scales.json"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    again = command.run(*small("repopt_qat"))
    assert again.returncode == 0, again.stderr
    assert "is damaged" in again.stderr
    assert list((cache / "quarantine").iterdir())


def test_killed_training_goes_on_and_ends_with_the_same_weights(
    command: Command, finished: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    assert finished.returncode == 0, finished.stderr
    broken = Command(folder=tmp_path)
    training = small("ptq", "pipeline.steps=[train_repopt]")
    process = broken.start(*training)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if list(tmp_path.glob("outputs/cache/progress/*/train/*")):
            break
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert not list(tmp_path.glob("outputs/runs/ptq/train_repopt/*"))
    resumed = broken.run(*training)
    assert resumed.returncode == 0, resumed.stderr
    name = "train_repopt/checkpoint.safetensors"
    unbroken = load_file(command.folder / "outputs" / "runs" / "repopt_qat" / name)
    continued = load_file(tmp_path / "outputs" / "runs" / "ptq" / name)
    assert unbroken.keys() == continued.keys()
    for key, tensor in unbroken.items():
        np.testing.assert_array_equal(tensor, continued[key])
    shutil.rmtree(tmp_path / "outputs")


@pytest.mark.skipif(not BCCD.is_dir(), reason="the BCCD photographs are not here")
def test_photographs_train_and_calibrate(tmp_path: Path) -> None:
    result = Command(folder=tmp_path).run(
        "pipelines=ptq",
        "data=coco",
        f"data.root={BCCD}",
        "model=yolov6n",
        "model.image_size=64",
        "model.width=0.125",
        "train_repopt.batch_size=8",
        "train_repopt.epochs=2",
        "train_repopt.validate_every=2",
        "calibrate.num_images=32",
        "train_repopt.search.epochs=1",
        "train_repopt.schedule.ema_ramp_steps=20",
        "evaluate.max_detections=30",
        "evaluate.num_runs=2",
        "evaluate.num_warmup=0",
        "evaluate.parity.num_images=4",
        "engine.batch_sizes=[1]",
        "export.batch=1",
    )
    assert result.returncode == 0, result.stderr
    assert "205 images" in result.stderr
    summary = read(tmp_path / "outputs" / "runs" / "ptq" / "summary.json")
    assert [variant["name"] for variant in summary["variants"]] == ["fp32", "half", "ptq"]
