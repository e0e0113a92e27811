"""The ``model`` and the ``loss`` group: each of one of the families, which its ``family`` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from quantpipe.detector.families import FAMILIES
from quantpipe.detector.families.contract import Family, FamilyLoss, FamilySettings
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.errors import ConfigurationError
from quantpipe.schema import OneOf

if TYPE_CHECKING:
    from quantpipe.detector.families.implementation import DetectionLoss


def _settings() -> Mapping[str, type]:
    return {name: family.settings for name, family in FAMILIES.items()}


def _losses() -> Mapping[str, type]:
    return {name: family.loss for name, family in FAMILIES.items() if family.loss is not None}


ModelSettings = Annotated[FamilySettings, OneOf("family", _settings)]
"""The settings of any family of the table."""

LossSettings = Annotated[FamilyLoss, OneOf("family", _losses)]
"""What the loss of any family that has one is told."""


def family_of(model: FamilySettings) -> Family:
    """The family that a model is of."""
    return FAMILIES[model.family]


def input_of(model: FamilySettings) -> InputSpecification:
    """What the network of a model takes."""
    return family_of(model).input(model)


def require_loss_of(family: str, settings: FamilyLoss, *, path: str) -> None:
    """Refuses the settings of another family's loss; ``path`` is their key.

    Raises:
        ConfigurationError: Names both families.
    """
    if settings.family != family:
        raise ConfigurationError(
            f"they are those of family {settings.family}, not {family}",
            path=path,
            hint="choose the group of conf/loss that is of that family",
        )


def loss_of(family: str, settings: FamilyLoss, *, path: str) -> DetectionLoss | None:
    """The loss that a family is trained with; None where it cannot be trained from labels.

    ``path`` is the key of the settings.

    Raises:
        ConfigurationError: The settings are those of another family's loss.
    """
    training = FAMILIES[family].implementation().training
    if training is None:
        return None
    require_loss_of(family, settings, path=path)
    return training.loss(settings)
