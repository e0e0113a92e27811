"""The command as a user runs it, on a task small enough for a test, with every library real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Enough steps that BatchNorm's statistics settle: less trains a network whose outputs explode.
SMALL = (
    "model.image_size=64",
    "model.width=0.125",
    "model.depth=0.1",
    "data.num_train=32",
    "data.num_val=16",
    "data.difficulty=0",
    "train_repopt.batch_size=8",
    "train_repopt.epochs=16",
    "train_repopt.validate_every=16",
    "train_repopt.search.epochs=3",
    "train_repopt.schedule.ema_ramp_steps=20",
    "train_repopt.save_every=10",
    "qat_distill.epochs=1",
    "qat_distill.save_every=5",
    "calibrate.num_images=32",
    "sensitivity.method=gradient",
    "sensitivity.num_images=16",
    "evaluate.num_runs=3",
    "evaluate.num_warmup=1",
    "evaluate.parity.num_images=8",
    "evaluate.num_examples=1",
    "export.simplify=false",
)


@dataclass(frozen=True)
class Command:
    """``quantpipe`` in a folder of its own."""

    folder: Path

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        """Starts the command."""
        return subprocess.Popen(
            [sys.executable, "-m", "quantpipe", *overrides],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "140"},
        )

    def run(self, *overrides: str) -> subprocess.CompletedProcess[str]:
        """Runs the command to its end."""
        process = self.start(*overrides)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(overrides, process.returncode, out, err)


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


def small(pipeline: str, *more: str) -> Sequence[str]:
    """The overrides of a small run; those of steps that the pipeline lacks are left out."""
    absent = {"ptq": ("qat_distill", "sensitivity"), "partial_quant": ("qat_distill",)}
    skipped = absent.get(pipeline, ())
    kept = [text for text in SMALL if not text.startswith(skipped)] if skipped else list(SMALL)
    return [f"pipelines={pipeline}", *kept, *more]
