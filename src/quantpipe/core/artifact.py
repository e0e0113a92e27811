"""What stages hand to one another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class ArtifactKind(StrEnum):
    """The types of the edges in a pipeline."""

    CHECKPOINT = "checkpoint"
    REP_SCALES = "rep_scales"
    HISTORY = "history"
    STATE_DICT = "state_dict"
    SCALES = "scales"
    RANGES = "ranges"
    SENSITIVITY = "sensitivity"
    SENSITIVITY_TEXT = "sensitivity_text"
    PLAN = "plan"
    ONNX = "onnx"
    CALIBRATION_CACHE = "calibration_cache"
    ENGINE = "engine"
    TRTEXEC = "trtexec"
    METRICS = "metrics"
    EXAMPLES = "examples"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file of a kind, and the digest of its content."""

    kind: ArtifactKind
    path: Path
    sha256: str
