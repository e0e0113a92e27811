"""Activation ranges from the images of a data set: one pass, solved for a method, resampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantpipe.assembly.images import float_batches, num_batches
from quantpipe.core.stage import Context
from quantpipe.data.dataset import DetectionDataset
from quantpipe.detector.network import Detector, RawPrediction
from quantpipe.progress import Progress, Silent
from quantpipe.quantization import calibration
from quantpipe.quantization.calibration import CalibrationMethod, Statistics, solve
from quantpipe.quantization.graph import concat_groups, unify
from quantpipe.quantization.operations import Operation
from quantpipe.quantization.output_error import OUTPUT_ERRORS
from quantpipe.quantization.range_choice import candidate_ranges, chosen_ranges, range_harms
from quantpipe.quantization.statistics_file import load_statistics, save_statistics

_STATISTICS, _STATISTICS_VERSION = "statistics.npz", 2


@dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """Some images of a data set, in batches.

    Attributes:
        dataset: Where they are.
        chosen: Their numbers in it, ascending.
        image_size: Of the letterboxed images.
        batch_size: How many pass the network at once.
        device: Where the network is.
    """

    dataset: DetectionDataset
    chosen: Sequence[int]
    image_size: int
    batch_size: int
    device: str

    def batches(self) -> Iterator[Tensor]:
        """Yields (B, 3, S, S) float images, 0..1."""
        return float_batches(
            self.dataset,
            self.chosen,
            image_size=self.image_size,
            batch_size=self.batch_size,
            device=self.device,
        )

    @property
    def num_batches(self) -> int:
        """How many batches there are."""
        return num_batches(len(self.chosen), self.batch_size)

    @property
    def names(self) -> tuple[str, ...]:
        """The files, for errors."""
        return tuple(self.dataset.images[number].path.name for number in self.chosen)


def counted(
    network: nn.Module,
    operations: Sequence[Operation],
    images: CalibrationImages,
    *,
    weights_digest: str,
    by_image: bool,
    context: Context,
) -> Statistics:
    """What every operation reads; counted once for every method and percentile, and kept."""
    named_by = {
        "statistics": _STATISTICS_VERSION,
        "weights": weights_digest,
        "images": images.dataset.subset(images.chosen).fingerprint(None),
        "image_size": images.image_size,
        "batch_size": images.batch_size,
        "device": images.device,
        "by_image": by_image,
    }

    def count() -> Statistics:
        return calibration.collect(
            network,
            operations,
            images.batches(),
            by_image=by_image,
            image_names=images.names,
            progress=context.progress,
            total=images.num_batches,
        )

    folder = context.materialise(
        named_by, lambda root: save_statistics(root / _STATISTICS, count())
    )
    return load_statistics(folder / _STATISTICS)


def solver(
    network: Detector,
    operations: Sequence[Operation],
    images: CalibrationImages,
    statistics: Statistics,
    *,
    method: CalibrationMethod | Literal["auto"],
    percentile: float | None,
    context: Context,
) -> Callable[[NDArray[np.intp] | None], dict[str, float]]:
    """Returns what solves the ranges: from all images, or from numbers of some of them.

    Operations whose tensors meet in a concat get one range. ``auto`` weighs the candidates here,
    once; the rest is arithmetic on what was counted.
    """
    size = images.image_size
    groups = concat_groups(network, torch.zeros(1, 3, size, size, device=images.device))

    def of(drawn: NDArray[np.intp] | None) -> tuple[Statistics, Progress]:
        if drawn is None:
            return statistics, context.progress
        return statistics.resampled(drawn), Silent()

    def by_method(drawn: NDArray[np.intp] | None) -> dict[str, float]:
        seen, progress = of(drawn)
        assert method != "auto"
        return unify(solve(seen, method, percentile=percentile, progress=progress), groups)

    if method != "auto":
        return by_method
    harms = range_harms(
        network,
        operations,
        groups,
        candidate_ranges(statistics, groups),
        images.batches(),
        outputs=raw_outputs,
        error=OUTPUT_ERRORS["detections"],
        seed=context.seed,
        progress=context.progress,
        total=images.num_batches,
    )

    def by_harm(drawn: NDArray[np.intp] | None) -> dict[str, float]:
        labels = harms.least(drawn)
        candidates = candidate_ranges(of(drawn)[0], groups, only=set(labels.values()))
        return chosen_ranges(candidates, labels)

    numbers = Counter(harms.least().values()).most_common()
    context.progress.note(
        f"{context.step}: least harmful ranges: "
        + ", ".join(f"{label} for {number}" for label, number in numbers)
    )
    return by_harm


def raw_outputs(network: nn.Module, images: Tensor) -> Sequence[Tensor]:
    """Class logits and box distances."""
    predict: Callable[[Tensor], RawPrediction] = network.predict  # type: ignore[assignment]
    prediction = predict(images)
    return prediction.class_logits, prediction.distances
