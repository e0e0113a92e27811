"""All eight stages in seconds: the overrides, and what a run left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.engines.registry import read_header
from quantpipe.files import sha256_file

SAVE_EVERY = 4
"""Training steps between saved states."""

OVERRIDES = (
    "pipelines=repopt_qat",
    "run_dir=run",
    "cache_dir=cache",
    "device=cpu",
    "model.image_size=64",
    "model.width=0.125",
    "model.depth=0.1",
    "data.num_train=16",
    "data.num_val=4",
    "data.difficulty=0",
    "train_repopt.batch_size=4",
    "train_repopt.epochs=16",
    "train_repopt.validate_every=8",
    "train_repopt.search.epochs=4",
    "train_repopt.schedule.ema_ramp_steps=5",
    f"train_repopt.save_every={SAVE_EVERY}",
    "calibrate.num_images=8",
    "sensitivity.method=output",
    "sensitivity.num_images=4",
    "partial_quant.num_resamples=100",
    "qat_distill.epochs=8",
    "qat_distill.batch_size=4",
    f"qat_distill.save_every={SAVE_EVERY}",
    "export.simplify=false",
    "evaluate.num_runs=1",
    "evaluate.num_warmup=0",
    "evaluate.parity.num_images=2",
    "evaluate.num_examples=1",
    "engine.batch_sizes=[1]",
    # Two variants of five: an export or an engine more is more of the same.
    *(f"~variants.{variant}" for variant in ("half", "ptq", "partial")),
)

STEPS = (
    "train_repopt",
    "calibrate",
    "sensitivity",
    "partial_quant",
    "qat_distill",
    "export.fp32",
    "export.qat",
    "build_engine.fp32",
    "build_engine.qat",
    "evaluate",
)

# What two unbroken runs differ in: OpenVINO numbers the parts of a compiled network by what its
# process has compiled before, so an engine's bytes and size vary; the metrics say what it computes.
# A ranking holds the seconds it took, and a digest of itself.
_VARYING = frozenset({"seconds", "latency_ms", "fps", "size_mb", "document_sha256"})
_ENGINE = "model.engine"


@dataclass(frozen=True)
class Left:
    """What is in the folder of a run, whole or broken."""

    folder: Path

    @property
    def status(self) -> dict[str, Any]:
        """``status.json``; empty before there is one."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "run" / "status.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def published(self) -> dict[str, int]:
        """The inode of every published entry's manifest, by key: another one was built again."""
        manifests = (self.folder / "cache" / "objects").glob("*/*/manifest.json")
        return {path.parent.name: path.stat().st_ino for path in manifests}

    def being_built(self) -> set[str]:
        """Keys with a staging folder."""
        return {path.name.partition(".")[0] for path in (self.folder / "cache/staging").glob("*")}

    def num_bytes(self) -> int:
        """Of all published entries."""
        files = (self.folder / "cache" / "objects").rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file())

    def temporary(self) -> list[str]:
        """Whatever only a broken run leaves: half-written files, staging, progress, set aside."""
        found = list(self.folder.rglob("*.tmp"))
        for name in ("staging", "progress", "quarantine"):
            found += (self.folder / "cache" / name).glob("*")
        found += self.folder.rglob("*.edited-*")
        return sorted(str(path.relative_to(self.folder)) for path in found)

    def results(self) -> dict[str, str]:
        """What must be equal of every result: all but times, and the bytes of engines."""
        root = self.folder / "run"
        return {
            str(path.relative_to(root)): _constant(path)
            for step in STEPS
            for path in sorted((root / Path(*step.split("."))).iterdir())
        }


def _constant(path: Path) -> str:
    if path.name == _ENGINE:
        return str(read_header(path))
    if path.suffix == ".json":
        return json.dumps(_without_varying(json.loads(path.read_bytes())), sort_keys=True)
    return sha256_file(path)


def _without_varying(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_varying(v) for key, v in value.items() if key not in _VARYING}
    if isinstance(value, list):
        return [_without_varying(inner) for inner in value]
    return value


def differing(found: dict[str, str], expected: dict[str, str]) -> Iterator[str]:
    """Names of results that only one has, or that differ."""
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            yield name
