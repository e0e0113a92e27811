"""Measuring a plan: its fake-quantized network against the float one on the same images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import nn

from quantpipe.core.stage import Context
from quantpipe.data.batches import float_batches, num_batches
from quantpipe.data.dataset import DetectionDataset
from quantpipe.evaluation.accuracy import Measured, Predictor, agreement_if_confident
from quantpipe.evaluation.dataset import measure
from quantpipe.evaluation.network import predictor
from quantpipe.evaluation.resampling import bootstrap_difference
from quantpipe.progress import stop_if_asked
from quantpipe.quantization.model import Model, quantized_as
from quantpipe.quantization.precision_plan import PlanPoint, PrecisionPlan


@dataclass(frozen=True, kw_only=True)
class PlanAccuracy:
    """Measures plans of one network on one set of images.

    Attributes:
        loaded: The network with its ranges.
        dataset: The images, all of which are used.
        batch_size: Images at a time.
        num_resamples: Of the bootstrap.
        context: Seed, device and progress.
    """

    loaded: Model
    dataset: DetectionDataset
    batch_size: int
    num_resamples: int
    context: Context

    def measure(self, plan: PrecisionPlan) -> PlanPoint:
        """Returns the mAP of a plan and its drop with an interval.

        Raises:
            Interrupted: A signal asked to stop.
        """
        num_float = len(plan.float_operations)
        found = self._measured(quantized_as(self.loaded, plan), f"{num_float} in float")
        gained = bootstrap_difference(
            found.matched, self._float.matched, count=self.num_resamples, seed=self.context.seed
        )
        return PlanPoint(
            num_float=num_float,
            map=found.result.map,
            drop=gained.value,
            low=gained.low,
            high=gained.high,
            agreement=agreement_if_confident(
                self._float.detections, found.detections, self.dataset.class_names
            ),
        )

    def seconds(self) -> float:
        """Estimates the time of one measurement from the first batch, in INT8 throughout."""
        count = min(self.batch_size, len(self.dataset.images))
        (batch,) = float_batches(
            self.dataset,
            range(count),
            specification=self.loaded.checkpoint.input,
            batch_size=count,
            device=self.context.device,
        )
        images = batch.cpu().numpy()
        predict = predictor(self.loaded.quantized, self.context.device)
        predict(images[:1])
        start = time.monotonic()
        predict(images)
        batches = num_batches(len(self.dataset.images), self.batch_size)
        return (time.monotonic() - start) * batches

    @cached_property
    def _float(self) -> Measured:
        return self._measured(self.loaded.network, "float")

    def _measured(self, network: nn.Module, name: str) -> Measured:
        return measure(
            self._stopping(predictor(network, self.context.device)),
            self.dataset,
            specification=self.loaded.checkpoint.input,
            batch_size=self.batch_size,
            progress=self.context.progress,
            description=f"{self.context.step}: {name}",
        )

    def _stopping(self, predict: Predictor) -> Predictor:
        def predict_unless_stopped(images: NDArray[np.float32]) -> NDArray[np.float32]:
            stop_if_asked(self.context.progress)
            return predict(images)

        return predict_unless_stopped
