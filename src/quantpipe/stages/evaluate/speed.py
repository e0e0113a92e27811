"""How fast variants run, all in turn, so that a busy moment of the machine hits all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantpipe.engines.benchmark import Latency, measure_latency, measure_throughput
from quantpipe.progress import Progress
from quantpipe.report.variant import batch_name, batch_size
from quantpipe.stages.evaluate.variants import OpenVariant


@dataclass(frozen=True)
class Speed:
    """Times variants on random images.

    Attributes:
        batch_sizes: Each is timed by itself.
        num_runs: Counted runs of each variant.
        seed: Of the images.
        progress: Shows the rounds.
    """

    batch_sizes: tuple[int, ...]
    num_runs: int
    seed: int
    progress: Progress

    def latency(
        self, variants: Mapping[str, OpenVariant], *, num_warmup: int
    ) -> dict[str, dict[str, Latency]]:
        """Returns the times of a call, by variant and the name of the batch size."""
        timed: dict[str, dict[str, Latency]] = {name: {} for name in variants}
        for size in self.batch_sizes:
            runs = {}
            for name, variant in variants.items():
                images = self._images(variant, size)
                runs[name] = lambda run=variant.predict, images=images: run(images)
            found = measure_latency(
                runs, num_warmup=num_warmup, num_runs=self.num_runs, progress=self.progress
            )
            for name, latency in found.items():
                timed[name][batch_name(size)] = latency
        return timed

    def throughput(
        self,
        variants: Mapping[str, OpenVariant],
        latency: Mapping[str, Mapping[str, Latency]],
        *,
        num_queued: int,
    ) -> dict[str, dict[str, float]]:
        """Returns images per second, by variant and the name of the batch size.

        Args:
            variants: Those that compute several batches at once are timed so.
            latency: Of all; what the others do follows from the median of a call.
            num_queued: Batches that are handed over together.
        """
        queued = {name: v for name, v in variants.items() if v.run_all is not None}
        found = {
            name: {batch: 1000 * batch_size(batch) / taken.p50 for batch, taken in times.items()}
            for name, times in latency.items()
        }
        for size in self.batch_sizes if queued else ():
            runs = {}
            for name, variant in queued.items():
                batches = [self._images(variant, size)] * num_queued
                runs[name] = lambda run=variant.run_all, batches=batches: run(batches)
            rates = measure_throughput(
                runs,
                num_images=size * num_queued,
                num_runs=self.num_runs,
                progress=self.progress,
            )
            for name, rate in rates.items():
                found[name][batch_name(size)] = rate
        return found

    def _images(self, variant: OpenVariant, batch_size: int) -> NDArray[np.float32]:
        shape = (batch_size, 3, *variant.specification.size)
        return np.random.default_rng(self.seed).random(shape, dtype=np.float32)
