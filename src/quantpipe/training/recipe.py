"""What a training is told: every number of the recipe, none of it a default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quantpipe.detector.families.yolov6.loss import DetectionLoss
from quantpipe.training.schedule import Schedule, warmup_length


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of one training.

    Attributes:
        epochs: Passes over the data.
        batch_size: Images in a batch.
        nominal_batch: Images to an optimizer step, reached by accumulating batches; the gradient
            is the mean over them.
        lr: Learning rate after the warm-up.
        final_lr_fraction: Where the half cosine ends, as a fraction of ``lr``.
        momentum: Momentum after the warm-up.
        nesterov: Whether SGD looks ahead.
        weight_decay: Per ``nominal_batch`` images; scaled by batch * accumulated / nominal. Only
            weights of convolutions decay.
        warmup_epochs: Warm-up in epochs; the longer of this and ``warmup_steps`` counts ...
        warmup_steps: ... in optimizer steps ...
        warmup_max_fraction: ... but never more than this part of the training.
        warmup_momentum: Momentum at the first step.
        warmup_bias_lr: Rate of the biases at the first step.
        ema_decay: Decay of the moving average in the long run; 0 for no average.
        ema_ramp_steps: The decay at step t is ema_decay (1 - exp(-t / ema_ramp_steps)).
        no_augmentation_epochs: Last epochs without strong augmentation.
        gradient_clip: Largest norm of the (masked) gradient; 0 for no limit.
        mixed_precision: bfloat16 in the network; weights, assignment and losses stay float32.
        channels_last: Memory order of images and kernels.
        box_loss: "giou" or "siou".
        assignment_topk: Anchors a ground truth may have.
        assignment_alpha: Exponent of the class score in the alignment.
        assignment_beta: Exponent of the IoU in the alignment.
        focal_alpha: Weight of the background in the varifocal loss.
        focal_gamma: Its discount of easy background.
        classification_weight: Weight of the varifocal loss.
        box_weight: Weight of the box loss.
    """

    epochs: int
    batch_size: int
    nominal_batch: int
    lr: float
    final_lr_fraction: float
    momentum: float
    nesterov: bool
    weight_decay: float
    warmup_epochs: float
    warmup_steps: int
    warmup_max_fraction: float
    warmup_momentum: float
    warmup_bias_lr: float
    ema_decay: float
    ema_ramp_steps: float
    no_augmentation_epochs: int
    gradient_clip: float
    mixed_precision: bool
    channels_last: bool
    box_loss: Literal["giou", "siou"]
    assignment_topk: int
    assignment_alpha: float
    assignment_beta: float
    focal_alpha: float
    focal_gamma: float
    classification_weight: float
    box_weight: float

    @property
    def accumulate(self) -> int:
        """Batches to an optimizer step."""
        return max(1, round(self.nominal_batch / self.batch_size))

    @property
    def scaled_weight_decay(self) -> float:
        """Weight decay for the images that a step really sees."""
        return self.weight_decay * self.batch_size * self.accumulate / self.nominal_batch


def schedule(recipe: Recipe, *, steps_per_epoch: int) -> Schedule:
    """Returns the rates of a training of ``recipe.epochs`` times ``steps_per_epoch`` steps."""
    total_steps = recipe.epochs * steps_per_epoch
    return Schedule(
        total_steps=total_steps,
        warmup_steps=warmup_length(
            epochs=recipe.warmup_epochs,
            steps=recipe.warmup_steps,
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
            max_fraction=recipe.warmup_max_fraction,
        ),
        lr=recipe.lr,
        final_lr_fraction=recipe.final_lr_fraction,
        momentum=recipe.momentum,
        warmup_momentum=recipe.warmup_momentum,
        warmup_bias_lr=recipe.warmup_bias_lr,
    )


def detection_loss(recipe: Recipe, *, strides: tuple[int, ...]) -> DetectionLoss:
    """Returns the loss of the recipe for a detector with these ``strides``."""
    return DetectionLoss(
        strides=strides,
        box_loss=recipe.box_loss,
        topk=recipe.assignment_topk,
        alpha=recipe.assignment_alpha,
        beta=recipe.assignment_beta,
        focal_alpha=recipe.focal_alpha,
        focal_gamma=recipe.focal_gamma,
        classification_weight=recipe.classification_weight,
        box_weight=recipe.box_weight,
    )
