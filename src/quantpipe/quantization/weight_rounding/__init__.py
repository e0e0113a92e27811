"""Integers for the weights, and biases, fitted on images."""
