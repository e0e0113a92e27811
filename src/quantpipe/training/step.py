"""One optimizer step: batches in, changed weights and average out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quantpipe.data.network_input import network_input
from quantpipe.detector.families.implementation import DetectionLoss, RawPrediction, raw_prediction
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.process_group import ProcessGroup
from quantpipe.training.optimizer import mask_gradients, set_rates
from quantpipe.training.range_updates import RangeUpdates
from quantpipe.training.rates import Rates
from quantpipe.training.recipe import Recipe
from quantpipe.training.session import Session

if TYPE_CHECKING:
    from quantpipe.data.loader import Batch

ExtraLoss = Callable[[Tensor, RawPrediction, int], Tensor]
"""A loss to add, of (images (B, 3, H, W) as the network takes them, prediction, epoch from 0)."""

LOSS_PARTS = ("loss", "cls", "iou", "extra")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a training minimizes.

    Attributes:
        loss: Of predictions against labels.
        extra_loss: Added to it, and run under the recipe's autocast; None adds nothing.
        gradient_masks: What multiplies the gradients, by parameter name; None for nothing.
    """

    loss: DetectionLoss
    extra_loss: ExtraLoss | None
    gradient_masks: Mapping[str, Tensor] | None


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """Steps a session towards an objective, with the given masks and rates."""

    session: Session
    recipe: Recipe
    rates: Rates
    objective: Objective
    masks: list[tuple[nn.Parameter, Tensor]]
    specification: InputSpecification
    ranges: RangeUpdates
    device: torch.device
    memory: torch.memory_format
    processes: ProcessGroup

    def step(self, group: Sequence[Batch], epoch: int) -> dict[str, float]:
        """Does one step on the mean gradient of ``group``; returns the mean loss and its parts.

        Raises:
            NumericalError: The loss is NaN or infinite; the weights are as they were.
        """
        parts = torch.stack([self._accumulate(batch, epoch, len(group)) for batch in group])
        values = dict(
            zip(LOSS_PARTS, self.processes.all_reduce_sum(parts.mean(0)).tolist(), strict=True)
        )
        if not math.isfinite(values["loss"]):
            raise self.session.diverged(f"the loss is {values['loss']} in epoch {epoch + 1}")
        self._update()
        return values

    def _accumulate(self, batch: Batch, epoch: int, num_batches: int) -> Tensor:
        """Adds the gradient of one batch; returns the loss parts (4,)."""
        images = self._images(batch.images)
        boxes, labels = batch.boxes.to(self.device), batch.labels.to(self.device)
        mixed, extra_loss = self.recipe.schedule.mixed_precision, self.objective.extra_loss
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=mixed):
            prediction = raw_prediction(self.session.network, images)
            extra = extra_loss(images, prediction, epoch) if extra_loss else None
        total, classification, box = self.objective.loss(
            prediction, boxes, labels, over_processes=self.processes.all_reduce_sum
        )
        # A mean over this rank's images is a part of the mean over all.
        extra = torch.zeros_like(total) if extra is None else extra / self.processes.size
        total = total + extra
        (total / num_batches).backward()  # type: ignore[no-untyped-call]
        return torch.stack([total, classification, box, extra]).detach()

    def _images(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=self.memory)
        return network_input(images, self.specification)

    def _sum_gradients(self) -> None:
        """Adds up the gradients of all ranks in one message; a parameter without one adds zero."""
        trained = [p for p in self.session.network.parameters() if p.requires_grad]
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        sums = self.processes.all_reduce_sum(torch.cat([gradient.flatten() for gradient in found]))
        lengths = [parameter.numel() for parameter in trained]
        for parameter, gradient in zip(trained, torch.split(sums, lengths), strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(gradient.view(parameter.shape))

    def _update(self) -> None:
        session = self.session
        if self.processes.size > 1:
            self._sum_gradients()
        mask_gradients(self.masks)
        clip = self.recipe.schedule.gradient_clip
        if clip > 0:
            nn.utils.clip_grad_norm_(session.network.parameters(), clip)
        set_rates(session.optimizer, self.rates, session.counters.step)
        session.optimizer.step()
        session.optimizer.zero_grad()
        session.counters.step += 1
        done = session.counters.step / self.rates.total_steps
        self.ranges.after_step(done=done, processes=self.processes)
        if session.average is not None:
            session.average.update(session.counters.step)
