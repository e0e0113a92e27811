"""Batches of a data set: augmented and shuffled to train, as they are and in order to evaluate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from quantpipe.data.augmentation import Augmentation
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.image_cache import ResizedImages, resized_images
from quantpipe.data.prefetch import map_ahead
from quantpipe.data.transforms import (
    Framing,
    Sample,
    fit_scales,
    flip,
    hsv_jitter,
    mosaic,
    pad_to_fill,
    random_affine,
)
from quantpipe.detector.input_specification import InputSpecification

CACHE_BYTES = 2 << 30  # of decoded images kept in memory, for each set and size


class Batch(NamedTuple):
    """B images and their boxes, padded to the largest number M of boxes in one (at least 1).

    Attributes:
        images: (B, 3, H, W) uint8 RGB.
        boxes: (B, M, 4) float32 x1, y1, x2, y2 pixels of the batch's images, padded with 0.
        labels: (B, M) int64, padded with -1.
        image_ids: (B,) int64.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    image_ids: Tensor


class _Source(NamedTuple):
    dataset: DetectionDataset
    images: ResizedImages
    specification: InputSpecification


def num_training_batches(dataset: DetectionDataset, batch_size: int) -> int:
    """Returns the batches of an epoch: whole ones only, but at least one."""
    return max(1, len(dataset.images) // batch_size)


def training_batches(
    dataset: DetectionDataset,
    *,
    specification: InputSpecification,
    batch_size: int,
    seed: int,
    epoch: int,
    augmentation: Augmentation | None,
    num_workers: int,
    start_batch: int = 0,
    cache_bytes: int = CACHE_BYTES,
    rank: int = 0,
    num_ranks: int = 1,
) -> Iterator[Batch]:
    """Yields the batches of one epoch, shuffled by (seed, epoch).

    Each sample draws from a generator of (seed, epoch, index): neither the number of workers nor
    where an epoch is resumed changes a pixel.

    Args:
        dataset: What to train on.
        specification: What the network takes: H and W, and how images come to be of that size.
        batch_size: B; an incomplete last batch is dropped, unless it is the only one.
        seed: Not negative.
        epoch: Not negative.
        augmentation: None resizes and pads only.
        num_workers: Threads that prepare batches ahead; 0 prepares them in line.
        start_batch: The first batch to yield.
        cache_bytes: Decoded images are kept in memory if all fit.
        rank: Of ``num_ranks`` processes that share every batch: this one's rows of it are
            ``rank``, ``rank + num_ranks``, ...
        num_ranks: How many share it.

    Raises:
        DataError: An image cannot be read.
    """
    source = _source(dataset, specification, cache_bytes)
    order = np.random.default_rng((seed, epoch)).permutation(len(dataset.images))
    chunks = [
        order[batch * batch_size : (batch + 1) * batch_size][rank::num_ranks].tolist()
        for batch in range(start_batch, num_training_batches(dataset, batch_size))
    ]
    make = partial(_training_batch, source, augmentation, seed, epoch)
    return map_ahead(make, chunks, num_workers=num_workers)


def evaluation_batches(
    dataset: DetectionDataset,
    *,
    specification: InputSpecification,
    batch_size: int,
    indices: Sequence[int] | None = None,
    num_workers: int = 1,
    cache_bytes: int = CACHE_BYTES,
) -> Iterator[tuple[Batch, list[Framing]]]:
    """Yields unaugmented batches in order, with the way back to original pixels.

    Args:
        dataset: What to look at.
        specification: What the network takes: H and W, and how images come to be of that size.
        batch_size: B; the last batch may be smaller.
        indices: Which images, in which order; None takes all.
        num_workers: Threads that prepare batches ahead; 0 prepares them in line.
        cache_bytes: Decoded images are kept in memory if all fit.

    Raises:
        DataError: An image cannot be read.
    """
    source = _source(dataset, specification, cache_bytes)
    chosen = list(range(len(dataset.images)) if indices is None else indices)
    chunks = [chosen[first : first + batch_size] for first in range(0, len(chosen), batch_size)]
    return map_ahead(partial(_evaluation_batch, source), chunks, num_workers=num_workers)


def _source(
    dataset: DetectionDataset, specification: InputSpecification, cache_bytes: int
) -> _Source:
    images = resized_images(dataset, specification=specification, limit=cache_bytes)
    return _Source(dataset, images, specification)


def _training_batch(
    source: _Source, augmentation: Augmentation | None, seed: int, epoch: int, chunk: list[int]
) -> Batch:
    if augmentation is None:
        samples = [_framed(source, index)[0] for index in chunk]
    else:
        samples = [
            _augmented(source, index, augmentation, np.random.default_rng((seed, epoch, index)))
            for index in chunk
        ]
    return _collate(source, chunk, samples)


def _evaluation_batch(source: _Source, chunk: list[int]) -> tuple[Batch, list[Framing]]:
    samples, framings = zip(*(_framed(source, index) for index in chunk), strict=True)
    return _collate(source, chunk, samples), list(framings)


def _resized(source: _Source, index: int) -> Sample:
    record = source.dataset.images[index]
    x, y = fit_scales(record.width, record.height, source.specification)
    resized = Framing(scale_x=x, scale_y=y, pad_x=0, pad_y=0)
    return Sample(source.images.read(index), resized.apply(record.boxes), record.labels)


def _framed(source: _Source, index: int) -> tuple[Sample, Framing]:
    record = source.dataset.images[index]
    image, left, top = pad_to_fill(source.images.read(index), source.specification)
    x, y = fit_scales(record.width, record.height, source.specification)
    placed = Framing(scale_x=x, scale_y=y, pad_x=left, pad_y=top)
    return Sample(image, placed.apply(record.boxes), record.labels), placed


def _augmented(
    source: _Source, index: int, augmentation: Augmentation, rng: np.random.Generator
) -> Sample:
    specification = source.specification
    if rng.random() < augmentation.mosaic:
        others = rng.integers(len(source.dataset.images), size=3).tolist()
        sample = mosaic([_resized(source, tile) for tile in (index, *others)], specification, rng)
    else:
        sample = _framed(source, index)[0]
    sample = random_affine(
        sample,
        specification,
        translate=augmentation.translate,
        scale=augmentation.scale,
        rng=rng,
    )
    sample = flip(sample, probability=augmentation.flip, rng=rng)
    image = hsv_jitter(
        sample.image,
        hue=augmentation.hsv_h,
        saturation=augmentation.hsv_s,
        value=augmentation.hsv_v,
        rng=rng,
    )
    return sample._replace(image=image)


def _collate(source: _Source, chunk: Sequence[int], samples: Sequence[Sample]) -> Batch:
    num_boxes = max(1, *(len(sample.labels) for sample in samples))
    images = np.empty((len(samples), 3, *source.specification.size), dtype=np.uint8)
    boxes = np.zeros((len(samples), num_boxes, 4), dtype=np.float32)
    labels = np.full((len(samples), num_boxes), -1, dtype=np.int64)
    for row, sample in enumerate(samples):
        images[row] = sample.image.transpose(2, 0, 1)
        boxes[row, : len(sample.boxes)] = sample.boxes
        labels[row, : len(sample.labels)] = sample.labels
    image_ids = [source.dataset.images[index].image_id for index in chunk]
    return Batch(
        images=torch.from_numpy(images),
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        image_ids=torch.tensor(image_ids, dtype=torch.int64),
    )
