"""A scalar whose squared gradient predicts the error of a detector's outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from quantpipe.quantization.output_error import OutputError


def projected(outputs: Sequence[Tensor], error: OutputError, signs: Sequence[Tensor]) -> Tensor:
    """Returns L, the sum of v sqrt(h) y over the outputs y, with h the curvature of the error.

    For v = +-1 at random the expectation of (dL)^2 is the sum of h dy^2, the error to second order
    (Hutchinson, 1989).

    Args:
        outputs: Each (B, ...).
        error: What is estimated.
        signs: v, from :func:`random_signs`.
    """
    curvature = error.curvature([output.detach() for output in outputs])
    terms = [
        (weight.sqrt() * sign * output).sum()
        for output, weight, sign in zip(outputs, curvature, signs, strict=True)
    ]
    return torch.stack(terms).sum()


def random_signs(
    outputs: Sequence[Tensor], first_image: int, projection: int, seed: int
) -> list[Tensor]:
    """Returns +-1 like the outputs; those of an image do not depend on its batch.

    Args:
        outputs: Each (B, ...).
        first_image: The number of the first.
        projection: Which of several draws.
        seed: Of all of them.
    """
    drawn: list[list[Tensor]] = [[] for _ in outputs]
    for image in range(first_image, first_image + len(outputs[0])):
        rng = np.random.default_rng((seed, projection, image))
        for of_output, output in zip(drawn, outputs, strict=True):
            bits = rng.integers(0, 2, size=tuple(output.shape[1:]), dtype=np.int8)
            of_output.append(torch.from_numpy(2 * bits - 1))
    return [
        torch.stack(of_output).to(output.device, output.dtype)
        for of_output, output in zip(drawn, outputs, strict=True)
    ]
