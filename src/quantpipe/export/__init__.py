"""From a trained detector to an ONNX graph that carries its quantization."""
