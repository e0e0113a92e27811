"""Fake quantization, calibration, the scale cache, sensitivity and the precision plan."""
