"""What INT8 in each operation does to the detector."""
