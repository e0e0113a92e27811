"""Numbers that are none, channels that are dead, and memory that runs out (rows 15 to 17, 35)."""

from __future__ import annotations

import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from faults.cases import wrong_line
from faults.fork_server import Ended, ForkServer
from faults.tally import Tally
from faults.tiny_pipeline import OVERRIDES, Left

from quantpipe.detector.checkpoint_file import load_checkpoint, save_checkpoint
from quantpipe.quantization.scale_cache import load_scales
from quantpipe.training.saved_state import newest_state

_TIMEOUT = 120.0
_TRAIN = "pipeline.steps=[train_repopt]"
_CALIBRATE = "pipeline.steps=[train_repopt,calibrate]"
_QAT = "pipeline.steps=[train_repopt,calibrate,qat_distill]"
_DEAD_CHANNEL = 1


@dataclass(frozen=True)
class _At:
    """Where a fault is tried: a sound checkpoint to spoil, and the folder of its run."""

    server: ForkServer
    folder: Path
    sound: Path

    def run(self, *overrides: str, memory_mib: int | None = None) -> Ended:
        return self.server.run(
            self.folder, *OVERRIDES, *overrides, memory_mib=memory_mib, timeout=_TIMEOUT
        )


Fault = Callable[[_At], str | None]


def run(seed: int, share: float) -> Tally:
    """Tries a share of them."""
    started = time.monotonic()
    tally = Tally(campaign="numbers", rows=(15, 16, 17, 35), seed=seed)
    faults = _faults()
    names = random.Random(seed).sample(sorted(faults), max(1, round(len(faults) * share)))
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary, ForkServer() as server:
        root = Path(temporary)
        ended = server.run(root / "sound", *OVERRIDES, _TRAIN, timeout=_TIMEOUT)
        assert ended.code == 0, ended
        sound = root / "sound" / "run" / "train_repopt" / "checkpoint.safetensors"
        for number, name in enumerate(names):
            tally.record(name, faults[name](_At(server, root / str(number), sound)))
    tally.seconds = time.monotonic() - started
    return tally


def _faults() -> dict[str, Fault]:
    return {
        **{
            f"row 15, {step} at a learning rate of {lr:g}": _diverging(step, key, lr, steps)
            for step, key, steps in (
                ("the search", "train_repopt.search.lr", _TRAIN),
                ("the training", "train_repopt.lr", _TRAIN),
                ("the fine-tuning", "qat_distill.lr", _QAT),
            )
            for lr in (1e12, 1e30)
        },
        **{
            f"row 16, weights of {value:g} in {layer}": _overflowing(layer, value)
            for layer in ("backbone.stem", "neck.", "detect.cls_convs.0", "detect.reg_preds.1")
            for value in (3e38, -3e38)
        },
        **{
            f"row 17, a dead channel in {layer}": _dead(layer)
            for layer in ("backbone.stem", "neck.", "detect.cls_preds.0", "detect.reg_preds.1")
        },
        **{
            f"row 35, {mib} MiB for images of {size} px": _starved(mib, size)
            for mib, size in ((800, 1024), (1500, 2048))
        },
        "row 35, a job of a sweep": _starved_job,
    }  # fmt: skip


def _diverging(step: str, key: str, lr: float, steps: str) -> Fault:
    def fault(at: _At) -> str | None:
        name = key.partition(".")[0]
        ended = at.run(
            steps, f"{key}={lr}", "qat_distill.save_every=1", "train_repopt.save_every=1"
        )
        if problem := _wrong(ended, 6, (name, " at step ", "lower the learning rate")):
            return problem
        if published_stages(at.folder).get(name):
            return f"{name} was published"
        for folder in {path.parent for path in (at.folder / "cache/progress").rglob("step-*")}:
            _, tensors = newest_state(folder, lambda note: None) or (None, {})
            if not tensors or not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
                return "the last saved state is not good"
        return None

    return fault


def _overflowing(layer: str, value: float) -> Fault:
    def fault(at: _At) -> str | None:
        def spoil(weight: torch.Tensor) -> None:
            weight.fill_(value)

        at.folder.mkdir()
        given = _spoiled(at, layer, spoil)
        ended = at.run(_CALIBRATE, f"train_repopt.checkpoint={given}")
        if problem := _wrong(ended, 6, ("calibrate", "image", "NaN or an infinity", "operation")):
            return problem
        return "calibrate was published" if published_stages(at.folder).get("calibrate") else None

    return fault


def _dead(layer: str) -> Fault:
    def fault(at: _At) -> str | None:
        def kill(weight: torch.Tensor) -> None:
            weight[_DEAD_CHANNEL] = 0

        at.folder.mkdir()
        given = _spoiled(at, layer, kill)
        ended = at.run(_CALIBRATE, f"train_repopt.checkpoint={given}")
        if ended.code != 0:
            return f"exit code {ended.code}: {ended.told}"
        folder = at.folder / "run" / "calibrate"
        scales = load_scales(folder / "scales.json").scales.values()
        if not all(math.isfinite(value) and value > 0 for s in scales for value in s.scale):
            return "a scale is not finite"
        load_checkpoint(folder / "checkpoint.safetensors")  # refuses what is not finite
        warned = [line for line in ended.err.splitlines() if "channel" in line and "zero" in line]
        return None if warned else "no channel was named"

    return fault


def _spoiled(at: _At, layer: str, change: Callable[[torch.Tensor], object]) -> Path:
    """A sound checkpoint but for the first convolution whose name begins so."""
    checkpoint = load_checkpoint(at.sound)
    tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    kernels = (n for n, t in tensors.items() if n.startswith(layer) and t.ndim == 4)
    change(tensors[next(kernels)])
    path = at.folder / "given.safetensors"
    save_checkpoint(path, replace(checkpoint, tensors=tensors))
    return path


def _starved(mib: int, size: int) -> Fault:
    def fault(at: _At) -> str | None:
        ended = at.run(
            _TRAIN,
            f"model.image_size={size}",
            "data.image_size=64",
            "train_repopt.batch_size=16",
            "train_repopt.cache_mib=0",
            memory_mib=mib,
        )
        return _wrong(ended, 5, ("train_repopt", "out of memory", "lower its batch_size"))

    return fault


def _starved_job(at: _At) -> str | None:
    overrides = [text for text in OVERRIDES if not text.startswith(("run_dir", "model.image_size"))]
    ended = at.server.run(
        at.folder,
        "-m",
        *overrides,
        _TRAIN,
        "train_repopt.batch_size=16",
        "train_repopt.cache_mib=0",
        "data.image_size=64",
        "model.image_size=2048,64",
        "hydra.sweep.dir=sweep",
        memory_mib=1500,
        timeout=_TIMEOUT,
    )
    if problem := _wrong(ended, 5, ("out of memory", "lower its batch_size")):
        return problem
    jobs = json.loads((at.folder / "sweep" / "sweep.json").read_bytes())["jobs"]
    failed = ["out of memory" in (job["failure"] or "") for job in jobs]
    return None if failed == [True, False] else f"jobs ended with {[j['failure'] for j in jobs]}"


def _wrong(ended: Ended, code: int, says: Sequence[str]) -> str | None:
    if "Traceback" in ended.err:
        return f"a traceback: {ended.err.splitlines()[-1]}"
    if ended.code != code:
        return f"exit code {ended.code}, not {code}: {ended.told or ended.err[-300:]}"
    if len(ended.told) != 1:
        return f"told {ended.told}"
    return wrong_line(ended.told[0], says)


def published_stages(folder: Path) -> dict[str, Any]:
    """How many published entries there are of each stage."""
    counts: dict[str, int] = {}
    for key in Left(folder).published():
        manifest = folder / "cache" / "objects" / key[:2] / key / "manifest.json"
        stage = json.loads(manifest.read_bytes())["identity"].get("stage", "")
        counts[stage] = counts.get(stage, 0) + 1
    return counts
