"""How close engines come to the networks they were built from, on every validation image.

python benchmarks/parity.py --data ROOT --checkpoint FILE [--json FILE] [--quick]

Calibrates, exports and builds from one trained checkpoint by the command itself, for OpenVINO and
for ONNX Runtime, and prints the parity records of their variants: float engines against the float
network, INT8 against the fake-quantized one, both in PyTorch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from quantpipe.detector.checkpoint_file import load_checkpoint
from quantpipe.report.summary import Summary, load_summary
from quantpipe.report.table import parity_text
from quantpipe.report.variant import Variant

ENGINES = ("openvino", "onnxruntime")


def main() -> None:
    """Runs, gathers and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a COCO data set")
    parser.add_argument("--checkpoint", type=Path, required=True, help="trained on it")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="8 images")
    arguments = parser.parse_args()
    variants: list[Variant] = []
    with tempfile.TemporaryDirectory() as folder:
        for engine in ENGINES:
            count = 8 if arguments.quick else 10_000
            summary = run(arguments.data, arguments.checkpoint, engine, count, Path(folder))
            variants += summary.variants
    text = parity_text(replace(summary, variants=tuple(variants)))
    table = Table()
    for header in text.headers:
        table.add_column(header)
    for row in text.rows:
        table.add_row(*row)
    Console(width=140).print(table)
    if arguments.json is not None:
        records = [figures(variant) for variant in variants]
        arguments.json.write_text(json.dumps(records, indent=2))


def figures(variant: Variant) -> dict[str, object]:
    """The record of a variant."""
    return {
        "engine": variant.engine,
        "name": variant.name,
        **({} if variant.parity is None else asdict(variant.parity)),
    }


def run(data: Path, checkpoint: Path, engine: str, num_images: int, folder: Path) -> Summary:
    """The post-training recipe from the checkpoint, on one library."""
    trained = load_checkpoint(checkpoint)
    command = [
        *(sys.executable, "-m", "quantpipe", "pipelines=ptq", f"engine={engine}"),
        *("data=coco", f"data.root={data.resolve()}"),
        f"model={trained.settings['architecture']['name']}",
        f"model.image_size={trained.input.shown}",
        f"train_repopt.checkpoint={checkpoint.resolve()}",
        f"evaluate.parity.num_images={num_images}",
        *("engine.batch_sizes=[16]", "evaluate.num_runs=3", f"run_dir=runs/{engine}"),
    ]
    subprocess.run(command, cwd=folder, check=True)
    return load_summary(folder / "runs" / engine / "summary.json")


if __name__ == "__main__":
    main()
