"""What every training takes from the data: batches by epoch, and a score on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from quantpipe.assembly.images import measure, predictor
from quantpipe.core.stage import Context
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.loader import Augmentation, Batch, num_training_batches, training_batches
from quantpipe.progress import Silent
from quantpipe.training.loop import BatchSource

_VALIDATION_BATCH = 16


def batch_source(
    dataset: DetectionDataset,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    num_workers: int,
    cache_mib: int,
) -> tuple[BatchSource, int]:
    """Batches as a function of the epoch, and how many an epoch has."""
    # Without mosaic the batches of the last epochs look like what the network will meet.
    plain = Augmentation(
        mosaic=0.0,
        hsv_h=0.0,
        hsv_s=0.0,
        hsv_v=0.0,
        translate=0.0,
        scale=0.0,
        flip=augmentation.flip,
    )

    def batches(*, epoch: int, start_batch: int, strong: bool) -> Iterator[Batch]:
        return training_batches(
            dataset,
            image_size=image_size,
            batch_size=batch_size,
            seed=seed,
            epoch=epoch,
            augmentation=augmentation if strong else plain,
            num_workers=num_workers,
            start_batch=start_batch,
            cache_bytes=cache_mib << 20,
        )

    return batches, num_training_batches(dataset, batch_size)


def validator(
    dataset: DetectionDataset, image_size: int, context: Context
) -> Callable[[nn.Module], float]:
    """Scores a network by its COCO mAP 50:95 on every image of ``dataset``."""

    def validate(network: nn.Module) -> float:
        result, _ = measure(
            predictor(network, context.device),
            dataset,
            image_size=image_size,
            batch_size=_VALIDATION_BATCH,
            progress=Silent(),
            description="validate",
        )
        return result.map

    return validate
