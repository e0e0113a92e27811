"""Checkpoints that others released, read without running anything in them."""
