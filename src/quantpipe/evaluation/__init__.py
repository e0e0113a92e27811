"""From raw predictions to detections, and from detections to COCO average precision."""
