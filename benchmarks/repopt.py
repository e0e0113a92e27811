"""Trains YOLOv6-N with RepOptimizer and in RepVGG form, and compares what plain PTQ costs each.

python benchmarks/repopt.py --data ROOT [--json FILE] [--quick] [override ...]

Both get the same data, epochs, rates and calibration (max, 128 training images); RepOptimizer's
search of scales comes on top. mAP is measured in the engine, on the validation images. A run that
was stopped goes on where it was: results stay in outputs/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

RECIPE = (
    "pipelines=ptq",
    "data=coco",
    "model=yolov6n",
    "model.image_size=320",
    "train_repopt.epochs=250",
    "train_repopt.lr=0.02",
    "train_repopt.search.epochs=20",
    "train_repopt.search.lr=0.02",
    "train_repopt.schedule.no_augmentation_epochs=25",
    "train_repopt.schedule.ema_decay=0.998",
    "train_repopt.schedule.ema_ramp_steps=400",
    "train_repopt.augmentation.scale=0.5",
    "train_repopt.validate_every=10",
    "train_repopt.select=last",  # so that the validation images have chosen nothing
)
QUICK = ("train_repopt.epochs=2", "train_repopt.search.epochs=1")
FORMS = ("repopt", "repvgg")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One form: mAP 50:95 of its engines, and seconds of search and training."""

    form: str
    map_float: float
    map_half: float
    map_int8: float
    train_seconds: float

    @property
    def drop(self) -> float:
        """Points of mAP lost by quantizing."""
        return 100 * (self.map_float - self.map_int8)


def main() -> None:
    """Runs both and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a COCO data set")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="two epochs, to see that it runs")
    parser.add_argument("overrides", nargs="*", help="of both runs, such as seed=1")
    options = parser.parse_args()
    overrides = (*RECIPE, *(QUICK if options.quick else ()), *options.overrides)
    results = [compared(form, options.data.absolute(), overrides) for form in FORMS]
    titles = ("form", "float", "half", "INT8 (max)", "drop", "training")
    print("{:<8}{:>8}{:>8}{:>12}{:>7}{:>11}".format(*titles))
    for found in results:
        shown = (100 * value for value in (found.map_float, found.map_half, found.map_int8))
        print(
            "{:<8}{:>8.2f}{:>8.2f}{:>12.2f}".format(found.form, *shown)
            + f"{found.drop:>7.2f}{found.train_seconds:>9.0f} s"
        )
    if options.json is not None:
        figures = [{**asdict(found), "drop_points": found.drop} for found in results]
        options.json.write_text(json.dumps(figures, indent=2))


def compared(form: str, data: Path, overrides: tuple[str, ...]) -> Comparison:
    """Runs the pipeline in one form, or reuses what it left, and reads its summary."""
    folder = Path(f"outputs/runs/compare_{form}")
    named = (f"data.root={data}", f"train_repopt.form={form}", f"run_dir={folder}")
    command = [sys.executable, "-m", "quantpipe", *overrides, *named]
    if code := subprocess.run(command, check=False).returncode:
        raise SystemExit(code)
    summary = json.loads((folder / "summary.json").read_bytes())
    scores = {variant["name"]: variant["map"] for variant in summary["variants"]}
    seconds = {stage["step"]: stage["seconds"] for stage in summary["stages"]}
    return Comparison(
        form=form,
        map_float=scores["fp32"],
        map_half=scores["half"],
        map_int8=scores["ptq"],
        train_seconds=seconds["train_repopt"],
    )


if __name__ == "__main__":
    main()
