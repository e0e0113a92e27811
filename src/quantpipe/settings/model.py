"""The ``model`` group: of one of the families, which its ``family`` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from quantpipe.detector.families import FAMILIES
from quantpipe.detector.families.contract import Family, FamilySettings
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.schema import OneOf


def _settings() -> Mapping[str, type]:
    return {name: family.settings for name, family in FAMILIES.items()}


ModelSettings = Annotated[FamilySettings, OneOf("family", _settings)]
"""The settings of any family of the table."""


def family_of(model: FamilySettings) -> Family:
    """The family that a model is of."""
    return FAMILIES[model.family]


def input_of(model: FamilySettings) -> InputSpecification:
    """What the network of a model takes."""
    return family_of(model).input(model)
