"""The operations that a plan leaves in float, as they were before they were fitted to INT8."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from quantpipe.errors import ArtifactError
from quantpipe.quantization.precision_plan import PrecisionPlan

Network = TypeVar("Network", bound=nn.Module)


def restore_float_operations(network: Network, original: nn.Module, plan: PrecisionPlan) -> Network:
    """Returns a copy of a network whose float operations have the original's parameters.

    Weights that were moved to be rounded to better integers are of no use where nothing is rounded.

    Args:
        network: Deployed, with fitted weights.
        original: Deployed, as trained.
        plan: Says which operations stay in float.

    Raises:
        ArtifactError: The two networks have not the same operations.
    """
    restored = copy.deepcopy(network)
    theirs = dict(original.named_parameters())
    ours = dict(restored.named_parameters())
    with torch.no_grad():
        for operation in plan.float_operations:
            for name in (f"{operation}.weight", f"{operation}.bias"):
                mine, other = ours.get(name), theirs.get(name)
                if mine is None and other is None:
                    continue
                if mine is None or other is None or mine.shape != other.shape:
                    raise ArtifactError(
                        f"'{name}' is not the same parameter in the original network",
                        hint="give the checkpoint that this one was calibrated from",
                    )
                mine.copy_(other)
    return restored
