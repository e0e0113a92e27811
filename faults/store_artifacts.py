"""One small real artifact of each kind, written by the project's own writers.

python -m faults.store_artifacts FOLDER

Run in a process of its own: the writers need PyTorch, which the store's campaigns do without.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from quantpipe.quantization.number_format import INT8

FILES = (
    "checkpoint.safetensors",
    "rep_scales.safetensors",
    "scales.json",
    "plan.json",
    "sensitivity.json",
    "sensitivity.txt",
    "model.onnx",
    "calibration.cache",
    "openvino.engine",
    "metrics.json",
)
PROGRESS = "progress"


def made_in_a_process(folder: Path) -> None:
    """Makes them without importing their libraries here."""
    subprocess.run([sys.executable, "-m", __name__, str(folder)], check=True, timeout=120)


def make(folder: Path) -> None:
    """Writes every artifact of :data:`FILES`, and states of long work below ``progress``."""
    import torch

    from quantpipe.detector.checkpoint import Checkpoint
    from quantpipe.detector.checkpoint_file import save_checkpoint
    from quantpipe.detector.families.yolov6.architecture import Architecture
    from quantpipe.detector.families.yolov6.checkpoint import Description
    from quantpipe.detector.families.yolov6.family import input_of
    from quantpipe.detector.families.yolov6.network import build_detector, fold_batch_norm
    from quantpipe.detector.families.yolov6.rep_optimizer import extract_scales
    from quantpipe.detector.families.yolov6.rep_optimizer import save_scales as save_rep_scales
    from quantpipe.export.onnx_graph import export_float

    torch.set_num_threads(1)
    architecture = Architecture(
        name="tiny",
        depth=0.17,
        width=0.0625,
        num_classes=2,
        backbone_channels=(64, 128, 256, 512, 1024),
        backbone_repeats=(1, 6, 12, 18, 6),
        neck_channels=(256, 128, 128, 256, 256, 512),
        neck_repeats=(12, 12, 12, 12),
    )
    detector = build_detector(architecture, "linear_add", seed=1)
    save_rep_scales(folder / "rep_scales.safetensors", extract_scales(detector))
    detector = fold_batch_norm(build_detector(architecture, "repopt", seed=1)).eval()
    checkpoint = Checkpoint(
        family="yolov6",
        settings=Description(architecture, "deploy").settings(),
        class_names=("disc", "square"),
        input=input_of((32, 32)),
        tensors=detector.state_dict(),
        provenance={"stage": "test", "seed": 1},
    )
    save_checkpoint(folder / "checkpoint.safetensors", checkpoint)
    export_float(detector, folder / "model.onnx", image_size=(32, 32), batch=1, opset=17)
    _write_documents(folder, checkpoint.weights_digest)
    _write_engine(folder)
    _write_progress(folder / PROGRESS)


def _write_documents(folder: Path, weights_digest: str) -> None:
    from quantpipe.engines.tensorrt.calibration_cache import (
        CalibrationCache,
        write_calibration_cache,
    )
    from quantpipe.files import write_json
    from quantpipe.quantization.plans.ranked import plan_from_boundary
    from quantpipe.quantization.precision_plan import save_plan
    from quantpipe.quantization.scale_cache import TensorScale, build_scale_cache, save_scales
    from quantpipe.quantization.sensitivity.released_table import write_released_text
    from quantpipe.quantization.sensitivity.table import SensitivityRow, save_table, sorted_table

    names = [f"backbone.stage{number}.conv" for number in range(8)]
    amax = {name: 1.0 + number / 7 for number, name in enumerate(names)}
    weights = {
        f"{name}.weight": TensorScale(
            name=f"{name}.weight",
            kind="weight",
            axis=0,
            amax=(0.5, number / 3 + 0.1),
            number_format=INT8,
            method="max",
        )
        for number, name in enumerate(names)
    }
    scales = build_scale_cache(
        amax,
        weights,
        method="max",
        weights_digest=weights_digest,
        data_digest="d" * 64,
        preprocessing={"image_size": 32},
        number_format=INT8,
    )
    save_scales(folder / "scales.json", scales)
    rows = [
        SensitivityRow(name=name, score=number / 9, map50=0.5 + number / 99, map=number / 9)
        for number, name in enumerate(names)
    ]
    table = sorted_table("map", rows, baseline=0.9, weights_digest=weights_digest, num_images=4)
    save_table(folder / "sensitivity.json", table)
    write_released_text(folder / "sensitivity.txt", table)
    save_plan(folder / "plan.json", plan_from_boundary(table, 4))
    cache = CalibrationCache(version=8601, algorithm="EntropyCalibration2", amax=amax)
    write_calibration_cache(folder / "calibration.cache", cache)
    write_json(folder / "metrics.json", {"variants": [{"name": "fp32", "map": 0.25}]})


def _write_engine(folder: Path) -> None:
    from quantpipe.engines.contract import BuildSettings, Platform
    from quantpipe.engines.engine_file import EngineFile, EngineHeader, write_engine_file
    from quantpipe.engines.openvino.spec import OpenVinoSettings

    engine = OpenVinoSettings(
        name="openvino",
        batch_sizes=(1,),
        float_precision="fp32",
        mode="latency",
        num_streams=0,
        num_threads=0,
    )
    header = EngineHeader(
        platform=Platform(library="openvino 1.2", hardware="cpu x"),
        settings=BuildSettings(engine=engine, precision="int8", image_size=(32, 32)),
        onnx_sha256="0" * 64,
        num_classes=None,
    )
    blobs = {"batch1": bytes(range(256)) * 20}
    write_engine_file(folder / "openvino.engine", EngineFile(header=header, blobs=blobs))


def _write_progress(folder: Path) -> None:
    import numpy as np
    import torch

    from quantpipe.quantization.records import SavedRecords
    from quantpipe.training.saved_state import Counters, write_state

    for step in (10, 20):
        tensors = {"weight": torch.arange(64.0) * step, "ema": torch.ones(3) * step}
        counters = Counters(step=step, history=[{"loss": 1.0 / step}])
        write_state(folder / "training", counters, tensors)
    records = SavedRecords(folder=folder / "records", identity="i" * 64)
    records.write("backbone.stem", {"score": np.arange(8.0), "count": np.array(3)})
    codes = np.arange(-64, 64, dtype=np.int8).reshape(8, 16)
    SavedRecords(folder=folder / "codes", identity="i" * 64).write(
        "backbone.stem", {"codes": codes}
    )
    images = folder / "data" / "images"
    images.mkdir(parents=True)
    for number in range(3):
        (images / f"{number}.jpg").write_bytes(bytes([number]) * 99)
    (folder / "data" / "names.json").write_text(json.dumps(["disc"]))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
