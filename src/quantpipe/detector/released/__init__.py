"""Checkpoints that others released, read without running anything in them."""

READING = 2
"""How they are read. Raised where a file comes to be read otherwise, so that what was made of it is
made again."""
