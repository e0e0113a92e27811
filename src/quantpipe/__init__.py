"""From training to a deployed INT8 engine: YOLOv6-class detectors in one command."""

__version__ = "0.1.0"
