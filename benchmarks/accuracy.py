"""What each way to quantize costs in accuracy: float, PTQ, partial quantization, QAT, other tools.

python benchmarks/accuracy.py --data ROOT --checkpoint FILE [--json FILE] [--quick]

Every row starts from the same trained checkpoint and is made by the command itself. All are run on
the validation images, simulated in PyTorch (other tools' models in their own runtime): mAP 50:95,
its difference from float with the middle 95 % of what resamples of the images give for it, and
agreement, the mAP against the float network's own confident detections. The images chose nothing
but the plan of ``partial auto``. ONNX Runtime and NNCF quantize the exported float graph with their
defaults on the calibration images, where they are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from other_tools import quantize_with_nncf, quantize_with_onnxruntime
from quantpipe.data.batches import float_batches, sample
from quantpipe.data.coco import read_coco
from quantpipe.data.coco_layout import find_coco_split
from quantpipe.data.dataset import DetectionDataset
from quantpipe.detector.checkpoint_family import as_deployed, restore_detector
from quantpipe.detector.checkpoint_file import load_checkpoint
from quantpipe.detector.families.implementation import DetectorNetwork
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.evaluation.accuracy import Predictor, matched_agreement
from quantpipe.evaluation.coco_map import matched_detections
from quantpipe.evaluation.dataset import measure, objects_of
from quantpipe.evaluation.image_detections import ImageDetections
from quantpipe.evaluation.network import predictor
from quantpipe.evaluation.resampling import bootstrap_difference
from quantpipe.export.onnx_graph import export_float
from quantpipe.progress import Silent
from quantpipe.quantization.model import load_model
from quantpipe.quantization.model_files import CHECKPOINT

NUM_RESAMPLES = 1000
NUM_IMAGES = 128
SEED = 0
CPU = "cpu"

STEPS = ("train_repopt", "calibrate", "sensitivity", "partial_quant", "qat_distill")
WIRING = {
    "calibrate": "{model: train_repopt}",
    "sensitivity": "{model: calibrate}",
    "partial_quant": "{model: calibrate, table: sensitivity}",
    "qat_distill": "{model: calibrate, teacher: train_repopt}",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A row: the last step that makes it, and what it overrides."""

    name: str
    step: str
    overrides: tuple[str, ...] = ()


PLAIN = "calibrate.bias_correction=false"
QAT = ("qat_distill.select=last", "qat_distill.epochs=5", "qat_distill.validate_every=5")
RECIPES = (
    Recipe(name="max", step="calibrate", overrides=("calibrate.method=max", PLAIN)),
    Recipe(name="auto", step="calibrate", overrides=("calibrate.method=auto", PLAIN)),
    Recipe(name="entropy", step="calibrate", overrides=("calibrate.method=entropy", PLAIN)),
    Recipe(name="mse", step="calibrate", overrides=("calibrate.method=mse", PLAIN)),
    Recipe(name="99.99 %", step="calibrate", overrides=("calibrate.percentile=99.99", PLAIN)),
    Recipe(name="max, biases", step="calibrate"),
    Recipe(
        name="max, biases, hessian",
        step="calibrate",
        overrides=("calibrate.weight_rounding=hessian",),
    ),
    Recipe(name="partial 55", step="partial_quant", overrides=("partial_quant.quant_boundary=55",)),
    Recipe(name="partial auto", step="partial_quant"),
    Recipe(name="QAT fixed", step="qat_distill", overrides=QAT),
    Recipe(name="QAT learned", step="qat_distill", overrides=(*QAT, "qat_distill.ranges=learned")),
)
QUICK = ("max", "auto", "max, biases", "partial auto")


@dataclass(frozen=True, kw_only=True)
class Row:
    """mAP 50:95 and its difference from float, in points; agreement, 0 to 100."""

    name: str
    map: float
    difference: float
    low: float
    high: float
    agreement: float


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One trained network, and the images it is calibrated and measured on."""

    model: str
    network: DetectorNetwork
    specification: InputSpecification
    train: DetectionDataset
    val: DetectionDataset

    def calibration(self) -> Iterator[NDArray[np.float32]]:
        """The images that the command calibrates with, (1, 3, S, S)."""
        chosen = sample(len(self.train.images), NUM_IMAGES, SEED)
        for batch in float_batches(
            self.train, chosen, specification=self.specification, batch_size=1, device=CPU
        ):
            yield batch.numpy()

    def detect(self, predict: Predictor, name: str) -> list[ImageDetections]:
        """What a predictor finds on the validation images."""
        return measure(
            predict,
            self.val,
            specification=self.specification,
            batch_size=8,
            progress=Silent(),
            description=name,
        ).detections


def main() -> None:
    """Makes every row, measures it and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a COCO data set")
    parser.add_argument("--checkpoint", type=Path, required=True, help="trained, of train_repopt")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="four rows, no other tools")
    options = parser.parse_args()
    subject = open_subject(options.data, options.checkpoint)
    recipes = [r for r in RECIPES if not options.quick or r.name in QUICK]
    with tempfile.TemporaryDirectory() as folder:
        found = {"float": subject.detect(predictor(subject.network, CPU), "float")}
        for recipe in recipes:
            made = make(recipe, subject, options.data, options.checkpoint, Path(folder))
            found[recipe.name] = subject.detect(made, recipe.name)
        for name, quantize in {} if options.quick else OTHERS.items():
            if importlib.util.find_spec(name) is not None:
                found[name] = subject.detect(quantize(subject, Path(folder)), name)
    rows = [compared(name, found["float"], seen, subject.val) for name, seen in found.items()]
    report(rows, options.json)


def open_subject(data: Path, checkpoint: Path) -> Subject:
    """Reads the checkpoint and both splits."""
    trained = load_checkpoint(checkpoint)
    splits = [
        read_coco(*find_coco_split(data, split), max_bad_images=0, strict=False)
        for split in ("train", "val")
    ]
    return Subject(
        model=trained.settings["architecture"]["name"],
        network=restore_detector(as_deployed(trained)),
        specification=trained.input,
        train=splits[0],
        val=splits[1],
    )


def make(recipe: Recipe, subject: Subject, data: Path, checkpoint: Path, folder: Path) -> Predictor:
    """Runs the command up to the recipe's step; returns the network that it left."""
    used = list(STEPS[:2])
    if recipe.step == "partial_quant":
        used += ["sensitivity", "partial_quant"]
    elif recipe.step == "qat_distill":
        used += ["qat_distill"]
    write_pipeline(folder / "conf" / "pipelines" / f"up_to_{recipe.step}.yaml", used)
    run = folder / recipe.name.replace(" ", "_").replace(",", "").replace("%", "")
    command = [
        *(sys.executable, "-m", "quantpipe", "--config-dir", str(folder / "conf")),
        *(f"pipelines=up_to_{recipe.step}", "data=coco", f"data.root={data.absolute()}"),
        *(f"model={subject.model}", f"model.image_size={subject.specification.shown}"),
        *(f"train_repopt.checkpoint={checkpoint.absolute()}", f"run_dir={run}"),
        *(f"cache_dir={folder / 'cache'}", f"seed={SEED}", *recipe.overrides),
    ]
    if code := subprocess.run(command, check=False).returncode:
        raise SystemExit(code)
    loaded = load_model(run / recipe.step / CHECKPOINT, CPU)
    return predictor(loaded.quantized, CPU)


def write_pipeline(path: Path, steps: Sequence[str]) -> None:
    """A pipeline that ends before any engine is built."""
    path.parent.mkdir(parents=True, exist_ok=True)
    defaults = "".join(f"  - /stage@{step}: {step}\n" for step in steps)
    text = f"# @package _global_\ndefaults:\n{defaults}  - _self_\n"
    text += f"pipeline: {{name: {path.stem}, steps: [{', '.join(steps)}]}}\n"
    wired = {step: inputs for step, inputs in WIRING.items() if step in steps}
    text += "".join(f"{step}: {{inputs: {inputs}}}\n" for step, inputs in wired.items())
    path.write_text(text)


def by_onnxruntime(subject: Subject, folder: Path) -> Predictor:
    """ONNX Runtime's static quantization."""
    import onnxruntime

    source, target = float_graph(subject, folder), folder / "onnxruntime.onnx"
    quantize_with_onnxruntime(source, target, subject.calibration())
    session = onnxruntime.InferenceSession(target)
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def by_nncf(subject: Subject, folder: Path) -> Predictor:
    """NNCF's post-training quantization of the OpenVINO model."""
    import openvino

    quantized = quantize_with_nncf(float_graph(subject, folder), subject.calibration())
    compiled = openvino.compile_model(quantized, "CPU")
    return lambda batch: np.asarray(compiled(batch)[0])


OTHERS: dict[str, Callable[[Subject, Path], Predictor]] = {
    "onnxruntime": by_onnxruntime,
    "nncf": by_nncf,
}


def float_graph(subject: Subject, folder: Path) -> Path:
    """The float network as ONNX, exported once."""
    path = folder / "float.onnx"
    if not path.exists():
        export_float(
            subject.network,
            path,
            image_size=subject.specification.size,
            batch="dynamic",
            opset=20,
        )
    return path


def compared(
    name: str,
    reference: Sequence[ImageDetections],
    found: Sequence[ImageDetections],
    dataset: DetectionDataset,
) -> Row:
    """One row of the table."""
    objects = objects_of(dataset)
    base, own = (matched_detections(f, objects) for f in (reference, found))
    difference = bootstrap_difference(base, own, count=NUM_RESAMPLES, seed=SEED)
    agreement = matched_agreement(reference, found, dataset.class_names).average_precision()
    return Row(
        name=name,
        map=100 * own.average_precision().map,
        difference=100 * difference.value,
        low=100 * difference.low,
        high=100 * difference.high,
        agreement=100 * agreement.map,
    )


def report(rows: Sequence[Row], path: Path | None) -> None:
    """Prints the table and writes the figures."""
    print(f"{'':<22}{'mAP 50:95':>10}{'against float':>15}{'95 % interval':>17}{'agreement':>11}")
    for row in rows:
        interval = f"{row.low:+.2f} to {row.high:+.2f}"
        print(
            f"{row.name:<22}{row.map:>10.2f}{row.difference:>+15.2f}{interval:>17}"
            f"{row.agreement:>11.1f}"
        )
    if path is not None:
        figures: list[dict[str, Any]] = [asdict(row) for row in rows]
        path.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
