"""Ranges of activations and weights."""
