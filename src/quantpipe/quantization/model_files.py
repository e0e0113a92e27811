"""What the files of a model are called, in the store and in a run directory."""

CHECKPOINT = "checkpoint.safetensors"
SCALES = "scales.json"
PLAN = "plan.json"
GRAPH = "graph.onnx"
CALIBRATION_CACHE = "calibration.cache"
