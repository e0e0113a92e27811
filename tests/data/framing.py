"""An image resized and padded in one go, as the loader does in two steps."""

from __future__ import annotations

from quantpipe.data.transforms import Framing, Pixels, fit_scales, pad_to_fill, resize_to_fit
from quantpipe.detector.input_specification import InputSpecification


def frame(image: Pixels, specification: InputSpecification) -> tuple[Pixels, Framing]:
    """The image at the size that a network takes, and where it lies in it."""
    height, width = image.shape[:2]
    canvas, left, top = pad_to_fill(resize_to_fit(image, specification), specification)
    x, y = fit_scales(width, height, specification)
    return canvas, Framing(scale_x=x, scale_y=y, pad_x=left, pad_y=top)
