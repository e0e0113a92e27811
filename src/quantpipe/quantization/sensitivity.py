"""How much each operation suffers from INT8: every one quantized alone and scored.

The ``map`` method of partial quantization (YOLOv6, arXiv 2209.02976, section 2.5): slow, exact, and
resumable. The cheap estimates are in :mod:`quantpipe.quantization.damage`.
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from quantpipe.errors import ArtifactError, Interrupted, NumericalError
from quantpipe.files import canonical_json, sha256_bytes, write_json
from quantpipe.progress import Progress
from quantpipe.quantization.fake_quantize import only_quantized, quantize
from quantpipe.quantization.json_reader import expect, read_document
from quantpipe.quantization.operations import Operation
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.sensitivity_table import (
    Accuracy,
    SensitivityRow,
    SensitivityTable,
    sorted_table,
)

Score = Callable[[nn.Module], tuple[float, float]]

_RECORD_FORMAT = "quantpipe-sensitivity-record"
_RECORD_VERSION = 1
_BASELINE = "(float)"


def score_sensitivity(
    network: nn.Module,
    scales: ScaleCache,
    operations: Sequence[Operation],
    score: Score,
    *,
    progress: Progress,
    progress_folder: Path,
) -> SensitivityTable:
    """Scores the float network, and the network with each operation alone in INT8.

    Args:
        network: A deployed float network in evaluation mode.
        scales: Its ranges.
        operations: Those to rank, in execution order.
        score: Returns (mAP50, mAP 50:95) of a network; an ``Accuracy`` is one. It has to give the
            same for the same network.
        progress: Shows the operations.
        progress_folder: Keeps one record for every score, so that a run that was stopped goes on
            from there. Records of other scales and damaged ones are scored again.

    Raises:
        NumericalError: A score is NaN.
        Interrupted: A signal asked to stop; what was scored is kept.
    """
    quantized = quantize(network, scales)
    records = _Records(folder=progress_folder, identity=_identity(scales))
    names = [_BASELINE, *(operation.name for operation in operations)]
    scores = {name: found for name in names if (found := records.read(name)) is not None}
    missing = [name for name in names if name not in scores]
    for name in progress.track(
        missing, "sensitivity", total=len(names), done=len(names) - len(missing)
    ):
        progress.status(name)
        with only_quantized(quantized, () if name == _BASELINE else (name,)):
            scores[name] = _checked(name, score(quantized))
        records.write(name, scores[name])
        if progress.should_stop():
            raise Interrupted(signal.SIGTERM)
    return _table(scores, [operation.name for operation in operations], scales.weights_digest)


def _table(
    scores: dict[str, Accuracy], names: Sequence[str], weights_digest: str
) -> SensitivityTable:
    baseline = scores[_BASELINE].map
    rows = [
        SensitivityRow(
            name=name,
            score=scores[name].map,
            map50=scores[name].map50,
            map=scores[name].map,
            drop=baseline - scores[name].map,
        )
        for name in names
    ]
    return sorted_table("map", rows, baseline=baseline, weights_digest=weights_digest)


def _checked(name: str, score: tuple[float, float]) -> Accuracy:
    accuracy = Accuracy(*(float(value) for value in score))
    if not all(math.isfinite(value) for value in accuracy):
        raise NumericalError(f"the network with '{name}' quantized scores {tuple(accuracy)}")
    return accuracy


def _identity(scales: ScaleCache) -> str:
    return sha256_bytes(canonical_json(scales.to_document()).encode())


@dataclass(frozen=True, kw_only=True)
class _Records:
    """One small file for each score."""

    folder: Path
    identity: str

    def read(self, name: str) -> Accuracy | None:
        path = self._path(name)
        if not path.exists():
            return None
        try:
            document = read_document(path, _RECORD_FORMAT, _RECORD_VERSION)
            scored = expect(document, "scored", dict)
            if document.get("sha256") != _digest(scored):
                return None
            if scored.get("identity") != self.identity or scored.get("name") != name:
                return None
            return Accuracy(expect(scored, "map50", float), expect(scored, "map", float))
        except ArtifactError:
            return None

    def write(self, name: str, accuracy: Accuracy) -> None:
        scored = {
            "identity": self.identity,
            "name": name,
            "map50": accuracy.map50,
            "map": accuracy.map,
        }
        document = {
            "format": _RECORD_FORMAT,
            "version": _RECORD_VERSION,
            "scored": scored,
            "sha256": _digest(scored),
        }
        write_json(self._path(name), document)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def _digest(scored: dict[str, object]) -> str:
    return sha256_bytes(json.dumps(scored, sort_keys=True).encode())
