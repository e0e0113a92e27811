"""How training images vary; light, for configurations hold it."""

from __future__ import annotations

from dataclasses import dataclass

from quantpipe.schema import Fraction


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Probabilities (mosaic, flip) and strengths (the rest); see ``conf/augmentation``.

    Attributes:
        mosaic: Probability of four images in one.
        hsv_h: Hue gain.
        hsv_s: Saturation gain.
        hsv_v: Value gain.
        translate: Largest shift, as a fraction of the image size.
        scale: Factors are uniform in 1 +- this.
        flip: Probability of a left-right mirror image.
    """

    mosaic: Fraction
    hsv_h: Fraction
    hsv_s: Fraction
    hsv_v: Fraction
    translate: Fraction
    scale: Fraction
    flip: Fraction

    @property
    def weak(self) -> Augmentation:
        """The mirror alone: images look like what the network will meet."""
        return Augmentation(
            mosaic=0.0,
            hsv_h=0.0,
            hsv_s=0.0,
            hsv_v=0.0,
            translate=0.0,
            scale=0.0,
            flip=self.flip,
        )
