"""What is known of one way to deploy a detector: the record that evaluation makes and all show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from quantpipe.engines.benchmark import Latency
from quantpipe.engines.contract import Fallback
from quantpipe.errors import ConfigurationError

_BATCH = re.compile(r"b[1-9][0-9]{0,8}")


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far a variant on its engine is from the network that it came from.

    What there was nothing to compare for is None.

    Attributes:
        reference: What the network is: ``float`` or ``fake-quantized``.
        num_images: Images that both saw.
        max_abs: Largest difference of any prediction.
        mean_abs: Their mean.
        box_max_abs: The same of boxes, in pixels.
        box_mean_abs: Likewise.
        score_max_abs: The same of scores.
        score_mean_abs: Likewise.
        agreement: Average precision of the engine's detections against those that the network is
            confident of.
        map_delta: mAP of the engine less that of the network, a fraction of one.
    """

    reference: str
    num_images: int
    max_abs: float | None = None
    mean_abs: float | None = None
    box_max_abs: float | None = None
    box_mean_abs: float | None = None
    score_max_abs: float | None = None
    score_mean_abs: float | None = None
    agreement: float | None
    map_delta: float | None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to deploy the detector. Average precision is a fraction of one.

    What was not measured is None or empty; the keys of ``latency_ms`` and ``fps`` are
    ``b<batch size>``.

    Attributes:
        name: As the recipe has it.
        precision: fp32, half or int8.
        engine: The library that runs it.
        image_size: Pixels: the side of a square, or height x width as text.
        map: Average precision at intersections over union of 0.50 to 0.95.
        map50: At 0.50.
        per_class: ``map`` of each class, by name.
        drop_vs_fp32: What ``map`` lost against the float variant.
        agreement: Average precision against the confident detections of the float variant.
        latency_ms: Of one call.
        fps: Images a second.
        size_mb: Of its file.
        float_layers: Layers of an INT8 engine that could run in INT8 and do not.
        fallbacks: Those, each with its reason.
        parity: None for a network.
        skipped: Why there is nothing else, where there is nothing.

    Raises:
        ConfigurationError: A batch size is called something else.
    """

    name: str
    precision: str
    engine: str
    image_size: int | str
    map: float | None = None
    map50: float | None = None
    per_class: Mapping[str, float] = field(default_factory=dict)
    drop_vs_fp32: float | None = None
    agreement: float | None = None
    latency_ms: Mapping[str, Latency] = field(default_factory=dict)
    fps: Mapping[str, float] = field(default_factory=dict)
    size_mb: float | None = None
    float_layers: int | None = None
    fallbacks: tuple[Fallback, ...] = ()
    parity: Parity | None = None
    skipped: str | None = None

    def __post_init__(self) -> None:
        for name in (*self.latency_ms, *self.fps):
            if _BATCH.fullmatch(name) is None:
                raise ConfigurationError(f"{name!r} is not b and a batch size", path="fps")

    @property
    def smallest_batch(self) -> str | None:
        """The key of the smallest batch that was timed."""
        return min(self.fps, key=batch_size, default=None)


def batch_name(size: int) -> str:
    """The key of a batch size in ``latency_ms`` and ``fps``."""
    return f"b{size}"


def batch_size(name: str) -> int:
    """The batch size of a key."""
    return int(name.removeprefix("b"))
