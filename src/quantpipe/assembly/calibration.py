"""Activation ranges from the images of a data set: one pass, solved for a method, resampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from quantpipe.assembly.images import float_batches, num_batches
from quantpipe.core.stage import Context
from quantpipe.data.dataset import DetectionDataset
from quantpipe.quantization import calibration
from quantpipe.quantization.calibration import Statistics
from quantpipe.quantization.operations import Operation
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
