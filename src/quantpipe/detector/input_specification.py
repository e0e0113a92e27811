"""What a network takes: the size of its images, and how pixels become its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quantpipe.errors import ConfigurationError

LARGEST_SIDE = 1 << 14
WHITE = 255


@dataclass(frozen=True, kw_only=True)
class InputSpecification:
    """Images (B, 3, height, width) as a network takes them, made of pictures of any size.

    A picture is resized and padded as 8-bit RGB; then its channels are put into order and each
    value p becomes (p / divisor - mean) / std, in float32.

    Attributes:
        height: Pixels.
        width: Pixels.
        colors: Order of the channels.
        divisor: 255 for values from 0 to 1, 1 for values from 0 to 255.
        mean: Of each channel, in the order of ``colors``, after the division.
        std: The same.
        resize: ``letterbox`` scales both sides alike and pads what is left; ``stretch`` fills.
        align: Where a letterboxed picture lies: in the ``center``, or ``top_left``.
        padding: Level, 0 to 255, of all three channels around it.

    Raises:
        ConfigurationError: A value is out of range.
    """

    height: int
    width: int
    colors: Literal["rgb", "bgr"]
    divisor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Literal["letterbox", "stretch"]
    align: Literal["center", "top_left"]
    padding: int

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            side = getattr(self, name)
            if not 0 < side <= LARGEST_SIDE:
                raise ConfigurationError(f"{side} is not from 1 to {LARGEST_SIDE}", path=name)
        if not 0 <= self.padding <= WHITE:
            raise ConfigurationError(f"{self.padding} is not from 0 to {WHITE}", path="padding")
        if self.divisor <= 0 or min(self.std) <= 0:
            raise ConfigurationError("divisor and std are not all above 0", path="std")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    @property
    def signed(self) -> bool:
        """Whether the network's numbers may be negative."""
        return any(value > 0 for value in self.mean)

    def as_scalars(self) -> dict[str, str | int | float]:
        """All of it in numbers and text, those of three channels in one text."""
        return {
            name: " ".join(map(str, value)) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }

    @property
    def shown(self) -> int | str:
        """The side of a square; else height x width as text, ``384x640``."""
        return self.width if self.height == self.width else f"{self.height}x{self.width}"
