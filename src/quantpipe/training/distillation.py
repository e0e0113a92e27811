"""Learning from a float teacher: class and channel-wise distillation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantpipe.detector.families.implementation import RawPrediction, raw_prediction
from quantpipe.errors import ArtifactError
from quantpipe.training.distillation_numbers import DistillationNumbers

_FINAL_WEIGHT = 0.01


def class_distillation(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) of the softmax over classes, times T^2, averaged over anchors.

    Hinton et al., arXiv 1503.02531, section 2. A single class has nothing to distil: zero.

    Args:
        student: (B, A, C) class logits.
        teacher: (B, A, C) class logits.
        temperature: Divides both.
    """
    divergence = _divergence(student.float(), teacher.float(), temperature)
    return divergence.sum(-1).mean() * temperature**2


def channel_wise_distillation(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, temperature: float
) -> Tensor:
    """KL of each channel's softmax over H*W, times T^2, averaged over batch and channels.

    Shu et al., arXiv 2011.13256, equations 3 and 4; summed over the feature maps.

    Args:
        student: Feature maps (B, C_i, H_i, W_i).
        teacher: Feature maps of the same shapes.
        temperature: Divides both.
    """
    losses = [
        _divergence(s.flatten(2).float(), t.flatten(2).float(), temperature).sum(-1).mean()
        for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(losses).sum() * temperature**2


def distillation_weight(epoch: int, epochs: int) -> float:
    """A half cosine from 1 in epoch 0 to 0.01 in epoch ``epochs``."""
    fall = (1 - math.cos(math.pi * epoch / epochs)) / 2
    return 1 + (_FINAL_WEIGHT - 1) * fall


def distillation_loss(
    teacher: nn.Module, numbers: DistillationNumbers, *, epochs: int
) -> Callable[[Tensor, RawPrediction, int], Tensor]:
    """Returns a loss of (images, student's prediction, epoch) for :func:`~.loop.train`.

    Args:
        teacher: A detector on the student's device; put in evaluation mode here.
        numbers: Weights and temperatures.
        epochs: Length of the training, over which the weights fall.
    """
    teacher.eval()

    def loss(images: Tensor, student: RawPrediction, epoch: int) -> Tensor:
        enabled = numbers.mixed_precision_teacher
        with (
            torch.no_grad(),
            torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=enabled),
        ):
            target = raw_prediction(teacher, images)
        total = student.class_logits.new_zeros((), dtype=torch.float32)
        if numbers.class_weight > 0:
            _require_same_classes(student, target)
            total = total + numbers.class_weight * class_distillation(
                student.class_logits, target.class_logits, temperature=numbers.class_temperature
            )
        if numbers.feature_weight > 0:
            _require_same_features(student, target)
            total = total + numbers.feature_weight * channel_wise_distillation(
                student.features, target.features, temperature=numbers.feature_temperature
            )
        return distillation_weight(epoch, epochs) * total

    return loss


def _divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The terms of KL(teacher || student), softmax over the last dimension."""
    return functional.kl_div(
        functional.log_softmax(student / temperature, -1),
        functional.log_softmax(teacher / temperature, -1),
        reduction="none",
        log_target=True,
    )


def _require_same_classes(student: RawPrediction, teacher: RawPrediction) -> None:
    wanted, given = student.class_logits.shape[-1], teacher.class_logits.shape[-1]
    if wanted != given:
        raise ArtifactError(
            f"the teacher has {given} classes, the student {wanted}",
            hint="choose a teacher trained on the same classes",
        )


def _require_same_features(student: RawPrediction, teacher: RawPrediction) -> None:
    wanted, given = ([f.shape[1] for f in p.features] for p in (student, teacher))
    if not wanted:
        raise ArtifactError(
            "the model has no features to be taught by", hint="set the feature weight to 0"
        )
    if wanted != given:
        raise ArtifactError(
            f"the teacher's neck has {given} channels, the student's {wanted}",
            hint="choose a teacher of the same model, or set the feature weight to 0",
        )
