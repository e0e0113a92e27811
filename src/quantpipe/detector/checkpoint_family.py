"""What the family of a checkpoint makes of it."""

from __future__ import annotations

from dataclasses import replace

from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.families import FAMILIES
from quantpipe.detector.families.implementation import DetectorNetwork, Implementation


def implementation_of(checkpoint: Checkpoint) -> Implementation:
    """Returns what the family of ``checkpoint`` does with it."""
    return FAMILIES[checkpoint.family].implementation()


def restore_detector(checkpoint: Checkpoint) -> DetectorNetwork:
    """Returns the detector of ``checkpoint`` in evaluation mode, with tensors of its own."""
    tensors = {name: tensor.detach().clone() for name, tensor in checkpoint.tensors.items()}
    return implementation_of(checkpoint).restore(replace(checkpoint, tensors=tensors))


def as_deployed(checkpoint: Checkpoint) -> Checkpoint:
    """Returns the checkpoint of the network that is deployed, which computes the same."""
    return implementation_of(checkpoint).deploy(checkpoint)


def operation_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Returns the quantizable operations of a deployed checkpoint in execution order."""
    return implementation_of(checkpoint).operations(checkpoint)
