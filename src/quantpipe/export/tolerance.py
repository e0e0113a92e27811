"""How far a graph's predictions may lie from its network's."""

from __future__ import annotations

from dataclasses import dataclass

from quantpipe.schema import Positive


@dataclass(frozen=True, kw_only=True)
class MeanTolerance:
    """The largest mean differences that pass: of boxes in pixels, of scores as they are.

    Limits of boxes hold for boxes within the image; where a network predicts boxes n times as
    large as the image, they are n times as wide.

    A quantized graph rounds a value that lies between two codes either way, so a single one may be
    off by a step; the mean tells whether scales agree.
    """

    box_mean_abs: Positive
    score_mean_abs: Positive


@dataclass(frozen=True, kw_only=True)
class Tolerance(MeanTolerance):
    """The same, and the largest difference of any value: for graphs that round nothing."""

    box_max_abs: Positive
    score_max_abs: Positive
