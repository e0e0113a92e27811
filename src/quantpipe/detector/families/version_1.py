"""Checkpoints of format version 1: there was one family, which they do not name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from quantpipe.detector.families.yolov6.family import YOLOV6, input_of


def as_version_2(header: Mapping[str, Any]) -> dict[str, Any]:
    """The header of the same checkpoint as it would be written today.

    Raises:
        KeyError: Something is missing.
    """
    side = header["image_size"]
    return {
        "family": YOLOV6.name,
        "settings": {"architecture": header["architecture"], "form": header["form"]},
        "class_names": header["class_names"],
        "input": asdict(input_of((side, side))),
        "provenance": header["provenance"],
        "weights_digest": header["weights_digest"],
    }
