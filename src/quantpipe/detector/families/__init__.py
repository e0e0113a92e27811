"""The families of detectors: an explicit table, and nothing heavy imported."""

from __future__ import annotations

from collections.abc import Mapping

from quantpipe.detector.families.contract import Family
from quantpipe.detector.families.yolov6.family import YOLOV6

FAMILIES: Mapping[str, Family] = {family.name: family for family in (YOLOV6,)}
