"""SGD, its warm-up and cosine, and the average of the weights, as configurations hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from quantpipe.schema import Between, Count, Fraction, NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the optimizer goes through a training, whatever its length and rate.

    Attributes:
        nominal_batch: Images to an optimizer step, reached by accumulating batches; the gradient
            is the mean over them.
        final_lr_fraction: Where the half cosine ends, as a fraction of the rate.
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
    """

    nominal_batch: Annotated[int, Between(1, 4096)]
    final_lr_fraction: Fraction
    momentum: Fraction
    nesterov: bool
    weight_decay: NotNegative
    warmup_epochs: NotNegative
    warmup_steps: Count
    warmup_max_fraction: Fraction
    warmup_momentum: Fraction
    warmup_bias_lr: NotNegative
    ema_decay: Fraction
    ema_ramp_steps: Positive
    no_augmentation_epochs: Count
    gradient_clip: NotNegative
    mixed_precision: bool
    channels_last: bool
