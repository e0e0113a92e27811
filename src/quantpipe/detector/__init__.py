"""The detector: a YOLOv6-class network, its forms, its anchors and its checkpoint format."""
