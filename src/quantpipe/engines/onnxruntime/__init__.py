"""ONNX Runtime: on processors, and on NVIDIA GPUs by its providers."""
