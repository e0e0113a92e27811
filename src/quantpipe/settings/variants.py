"""The ``variants`` table: what a recipe compares, a row each."""

from __future__ import annotations

from dataclasses import dataclass

from quantpipe.quantization.number_format import Precision


@dataclass(frozen=True, kw_only=True)
class VariantSettings:
    """One way to deploy a model.

    Attributes:
        model: The step that makes the model, or ``<step>.<output>``.
        precision: Of its engine.
        optional: Left out, with the reason, where the engine has no such kernels or is not here,
            or where the step that makes the model is not listed.
    """

    model: str
    precision: Precision
    optional: bool
