"""Detectors: their families, what they take and predict, and the checkpoint format."""
