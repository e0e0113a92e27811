"""What distillation is told; light, for configurations hold it."""

from __future__ import annotations

from dataclasses import dataclass

from quantpipe.schema import NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class DistillationNumbers:
    """Weights and temperatures; all weights fall with the epochs by a half cosine.

    Attributes:
        class_weight: Weight of :func:`~quantpipe.training.distillation.class_distillation`.
        class_temperature: Its temperature.
        feature_weight: Weight of
            :func:`~quantpipe.training.distillation.channel_wise_distillation`.
        feature_temperature: Its temperature.
        mixed_precision_teacher: bfloat16 in the teacher, whatever the student computes in.
    """

    class_weight: NotNegative
    class_temperature: Positive
    feature_weight: NotNegative
    feature_temperature: Positive
    mixed_precision_teacher: bool
