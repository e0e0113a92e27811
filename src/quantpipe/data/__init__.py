"""Data sets: COCO and YOLO readers, generated shapes, transforms and loaders."""
