"""What there is to find on a set of images, in columns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quantpipe.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """Every object of I images, in original pixels.

    Attributes:
        image_ids: (I,) int64, each once.
        image: (N,) the position of each object's image in ``image_ids``.
        label: (N,) 0-based index into ``class_names``.
        box: (N, 4) float64 x, y, width, height.
        area: (N,) float64 square pixels, as annotated; what sizes are told by.
        crowd: (N,) whether it stands for many: what is found in it counts neither way.
        class_names: By label.
    """

    image_ids: NDArray[np.int64]
    image: NDArray[np.intp]
    label: NDArray[np.intp]
    box: NDArray[np.float64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    class_names: tuple[str, ...]

    def of_images(self, image_ids: NDArray[np.int64]) -> Objects:
        """Returns the objects of some of the images, in the order given.

        Raises:
            DataError: There is no such image.
        """
        order = np.argsort(self.image_ids)
        found = np.searchsorted(self.image_ids, image_ids, sorter=order)
        position = order[np.minimum(found, len(order) - 1)] if len(order) else found
        unknown = self.image_ids[position] != image_ids if len(order) else image_ids == image_ids
        if unknown.any():
            raise DataError(f"image {image_ids[unknown][0]} is not in the ground truth")
        place = np.full(len(self.image_ids), -1, dtype=np.intp)
        place[position] = np.arange(len(image_ids))
        kept = place[self.image] >= 0
        return replace(
            self,
            image_ids=image_ids,
            image=place[self.image][kept],
            label=self.label[kept],
            box=self.box[kept],
            area=self.area[kept],
            crowd=self.crowd[kept],
        )
