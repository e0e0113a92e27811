"""Images for calibration and for measuring: unaugmented, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantpipe.assembly.networks import predict_with
from quantpipe.core.stage import Context
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.loader import evaluation_batches
from quantpipe.evaluation.accuracy import (
    PUBLISHED,
    ImageDetections,
    Predictor,
    Suppression,
    evaluate_predictor,
)
from quantpipe.evaluation.coco_map import MapResult
from quantpipe.progress import Progress


def sample(num_images: int, count: int, seed: int) -> tuple[int, ...]:
    """``count`` indices without repetition, ascending, the same for the same seed."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(num_images)[:count]
    return tuple(sorted(int(index) for index in chosen))


def float_batches(
    dataset: DetectionDataset,
    indices: Sequence[int],
    *,
    image_size: int,
    batch_size: int,
    device: str,
) -> Iterator[Tensor]:
    """Yields (B, 3, S, S) float images in 0..1, letterboxed and not augmented."""
    batches = evaluation_batches(
        dataset, image_size=image_size, batch_size=batch_size, indices=indices
    )
    for batch, _ in batches:
        yield batch.images.to(device).float() / 255


def num_batches(num_images: int, batch_size: int) -> int:
    """Batches that hold ``num_images``."""
    return -(-num_images // batch_size)


def predictor(network: nn.Module, device: str) -> Predictor:
    """A network as a function of arrays."""

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        tensor = torch.from_numpy(images).to(device)
        array: NDArray[np.float32] = predict_with(network, tensor).float().cpu().numpy()
        return array

    return predict


def measure(
    predict: Predictor,
    dataset: DetectionDataset,
    *,
    image_size: int,
    batch_size: int,
    progress: Progress,
    description: str,
    suppression: Suppression = PUBLISHED,
    by_size: bool = False,
) -> tuple[MapResult, list[ImageDetections]]:
    """COCO average precision of a predictor on every image of a data set."""
    return evaluate_predictor(
        predict,
        evaluation_batches(dataset, image_size=image_size, batch_size=batch_size),
        dataset.coco_ground_truth(),
        dataset.category_ids,
        suppression=suppression,
        by_size=by_size,
        num_batches=num_batches(len(dataset.images), batch_size),
        description=description,
        progress=progress,
    )


def note_counts(dataset: DetectionDataset, context: Context) -> None:
    """Says what was read, what was mended, and what was left out."""
    counts = ", ".join(f"{value} {name}" for name, value in dataset.counts.items() if value)
    context.progress.note(f"{context.step}: {dataset.name}: {counts}".replace("_", " "))
    for line in dataset.notes[:5]:
        context.progress.note(f"  {line}")


def provenance(context: Context, **more: Any) -> dict[str, Any]:
    """What a checkpoint says of its making."""
    return {"step": context.step, "seed": context.seed, **more}
