"""Decoded images at the size a network wants, kept in memory where the whole set fits."""

from __future__ import annotations

import threading
import weakref
from typing import final

from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.images import read_image
from quantpipe.data.transforms import Pixels, fit_scales, resize_to_fit
from quantpipe.detector.input_specification import InputSpecification


@final
class ResizedImages:
    """The images of a data set, each resized to fit what a network takes.

    Threads may share it: two that miss the same image both decode it, and one result stays.

    Args:
        dataset: Whose images.
        specification: What the network takes.
        limit: Bytes; a set that needs more is decoded anew each time.
    """

    def __init__(self, dataset: DetectionDataset, *, specification: InputSpecification, limit: int):
        self._records = dataset.images
        self._specification = specification
        self._kept: dict[int, Pixels] | None = {}
        if sum(self._num_bytes(index) for index in range(len(self._records))) > limit:
            self._kept = None

    def read(self, index: int) -> Pixels:
        """Returns image ``index``, (H, W, 3) RGB, not to be written to.

        Raises:
            DataError: The file cannot be read.
        """
        if self._kept is None:
            return self._decode(index)
        image = self._kept.get(index)
        if image is None:
            image = self._decode(index)
            image.flags.writeable = False
            self._kept[index] = image
        return image

    def _decode(self, index: int) -> Pixels:
        return resize_to_fit(read_image(self._records[index].path), self._specification)

    def _num_bytes(self, index: int) -> int:
        record = self._records[index]
        x, y = fit_scales(record.width, record.height, self._specification)
        return round(record.width * x) * round(record.height * y) * 3


_Key = tuple[InputSpecification, int]
_caches: weakref.WeakKeyDictionary[DetectionDataset, dict[_Key, ResizedImages]] = (
    weakref.WeakKeyDictionary()
)
_lock = threading.Lock()


def resized_images(
    dataset: DetectionDataset, *, specification: InputSpecification, limit: int
) -> ResizedImages:
    """Returns the one cache of a data set for an input; it lives as long as the data set."""
    with _lock:
        of_dataset = _caches.setdefault(dataset, {})
        key = (specification, limit)
        if key not in of_dataset:
            of_dataset[key] = ResizedImages(dataset, specification=specification, limit=limit)
        return of_dataset[key]
