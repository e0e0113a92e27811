"""ONNX files: reading them whole, their operations, and bisecting them."""
