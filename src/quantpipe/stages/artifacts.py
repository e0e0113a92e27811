"""The kinds of artifacts that stages hand to one another, and the files that they are."""

from __future__ import annotations

from quantpipe.core.artifact import ArtifactKind
from quantpipe.quantization import model_files

HALF_GRAPH = "model.half.onnx"

MODEL = ArtifactKind(
    name="model",
    files=(model_files.CHECKPOINT,),
    optional_files=(model_files.SCALES, model_files.PLAN, model_files.GRAPH),
)
"""A detector: its weights, and where it has them its ranges, its plan and its own graph."""

GRAPH = ArtifactKind(
    name="graph", files=("model.onnx",), optional_files=(model_files.CALIBRATION_CACHE,)
)
"""What an engine is built from; the ranges of a float graph may lie beside it."""

ENGINE = ArtifactKind(
    name="engine",
    files=("model.engine",),
    optional_files=(HALF_GRAPH, "model.trtexec.txt", model_files.CALIBRATION_CACHE),
)
"""A built engine; the command lines beside it, where its library has such, name the others."""

SENSITIVITY = ArtifactKind(name="sensitivity", files=("sensitivity.json",))
SENSITIVITY_TEXT = ArtifactKind(name="sensitivity_text", files=("sensitivity.txt",))
RANGES = ArtifactKind(name="ranges", files=("ranges.json",))
REP_SCALES = ArtifactKind(name="rep_scales", files=("rep_scales.safetensors",))
STATE_DICT = ArtifactKind(name="state_dict", files=("state_dict.pt",))
HISTORY = ArtifactKind(name="history", files=("history.json",))
METRICS = ArtifactKind(name="metrics", files=("metrics.json",))
EXAMPLES = ArtifactKind(name="examples", files=("examples.json",))
