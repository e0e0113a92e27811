"""TensorRT 8.6, 10 and 11 on NVIDIA GPUs."""
