"""Public YOLOv6 checkpoints: read without the package that wrote them, and without running it."""
