"""Whether an engine computes what was trained: it and the network it came from on the same images.

No two of them agree to the bit: a value between two codes is rounded either way, the difference
grows through the network, and processors take activations on a grid twice as fine as the simulated
one. What is asked of an INT8 engine is therefore that it lie not much farther from the float
network than the fake-quantized network does. With a wrong or missing range, or a kernel that
computes something else, it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpipe.assembly.images import measure, predictor
from quantpipe.assembly.networks import Loaded
from quantpipe.assembly.variants import OpenVariant
from quantpipe.data.dataset import DetectionDataset
from quantpipe.errors import ArtifactError, DataError
from quantpipe.evaluation.accuracy import (
    ImageDetections,
    Predictor,
    Suppression,
    agreement,
    score,
)
from quantpipe.export.verify import Parity, compare, reach, together
from quantpipe.progress import Progress
from quantpipe.settings.parity import ParitySettings

_ROUNDING = 1e-4
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class MeasuredParity:
    """An engine beside the network it came from.

    Attributes:
        reference: ``fake-quantized`` or ``float``, what the network is.
        num_images: Images that both saw.
        distance: Between their predictions; None where the engine gives detections instead.
        agreement: Average precision of the engine's detections against those the network is
            confident of; None where it is confident of none.
        map_delta: mAP of the engine less that of the network, a fraction of one.
        fault: What is too far apart, or None.
    """

    reference: str
    num_images: int
    distance: Parity | None
    agreement: float | None
    map_delta: float
    fault: str | None

    def as_json(self) -> dict[str, Any]:
        """The record as it stands in ``summary.json``."""
        distances = dict.fromkeys(Parity.__dataclass_fields__)
        if self.distance is not None:
            distances = vars(self.distance)
        return {
            "reference": self.reference,
            "num_images": self.num_images,
            **distances,
            "agreement": self.agreement,
            "map_delta": self.map_delta,
        }


def measure_parity(
    variant: OpenVariant,
    loaded: Loaded,
    found: Sequence[ImageDetections],
    dataset: DetectionDataset,
    settings: ParitySettings,
    *,
    batch_size: int,
    suppression: Suppression,
    device: str,
    progress: Progress,
    description: str,
) -> MeasuredParity:
    """Runs the network that an engine came from on the first images of a data set, and compares.

    Args:
        variant: The engine.
        loaded: The network, deployed; fake-quantized where it has scales.
        found: What the engine detects in the images of ``dataset``.
        dataset: Whose first ``settings.num_images`` are taken.
        settings: Number of images and limits.
        batch_size: Images at once.
        suppression: How predictions become detections.
        device: What the network runs on.
        progress: Shows the images.
        description: What the bar says.
    """
    few = dataset.subset(range(min(settings.num_images, len(dataset.images))))
    both = _Both(variant.predict, loaded, device)
    result, reference = measure(
        both,
        few,
        image_size=variant.image_size,
        batch_size=batch_size,
        progress=progress,
        description=description,
        suppression=suppression,
    )
    mine = found[: len(few.images)]
    same = score(mine, few.coco_ground_truth(), few.category_ids, by_size=False)
    agreed = _agreement(reference, mine, few.class_names)
    return MeasuredParity(
        reference="float" if loaded.scales is None else "fake-quantized",
        num_images=len(few.images),
        distance=both.distance,
        agreement=agreed,
        map_delta=same.map - result.map,
        fault=_fault(both, variant.precision, agreed, settings),
    )


class _Both:
    """The network, which compares what it predicts with the engine's as images come by."""

    def __init__(self, engine: Predictor, loaded: Loaded, device: str):
        self._engine = engine
        self._network = predictor(loaded.quantized, device)
        self._original = None if loaded.scales is None else predictor(loaded.network, device)
        self._parts: dict[str, list[tuple[int, Parity]]] = {}
        self.reach = 1.0

    def __call__(self, images: FloatArray) -> FloatArray:
        expected, actual = self._network(images), self._engine(images)
        self.reach = max(self.reach, reach(expected, images))
        if actual.shape == expected.shape:
            self._add("distance", images, expected, actual)
            if self._original is not None:
                floats = self._original(images)
                self._add("effect", images, floats, expected)
                self._add("from_float", images, floats, actual)
        return expected

    def _add(self, name: str, images: FloatArray, one: FloatArray, other: FloatArray) -> None:
        self._parts.setdefault(name, []).append((len(images), compare(one, other)))

    def _whole(self, name: str) -> Parity | None:
        return together(self._parts[name]) if name in self._parts else None

    @cached_property
    def distance(self) -> Parity | None:
        """Between network and engine."""
        return self._whole("distance")

    @cached_property
    def effect(self) -> Parity | None:
        """Between the float network and the fake-quantized one."""
        return self._whole("effect")

    @cached_property
    def from_float(self) -> Parity | None:
        """Between the float network and the engine."""
        return self._whole("from_float")


def _agreement(
    reference: Sequence[ImageDetections],
    candidate: Sequence[ImageDetections],
    class_names: Sequence[str],
) -> float | None:
    try:
        return agreement(reference, candidate, class_names).map
    except DataError:
        return None


def _fault(
    both: _Both, precision: str, agreed: float | None, settings: ParitySettings
) -> str | None:
    if both.distance is None:  # detections instead of predictions
        if agreed is None or agreed >= settings.min_agreement:
            return None
        return f"detections agree to {agreed:.3f}, less than {settings.min_agreement}"
    if both.effect is not None and both.from_float is not None:
        factor, mine, what = settings.int8_limit, both.from_float, "the float network"
        boxes, scores = factor * both.effect.box_mean_abs, factor * both.effect.score_mean_abs
    else:
        limits = settings.half if precision == "half" else settings.float32
        mine, what = both.distance, "the network"
        boxes, scores = limits.box_mean_abs * both.reach, limits.score_mean_abs
    if mine.box_mean_abs > boxes + _ROUNDING:
        return f"boxes lie {mine.box_mean_abs:.3g} px from {what}'s on average, allowed {boxes:.3g}"
    if mine.score_mean_abs > scores + _ROUNDING:
        return f"scores lie {mine.score_mean_abs:.3g} from {what}'s, allowed {scores:.3g}"
    return None


def require_parity(name: str, measured: MeasuredParity, parted_at: str | None) -> None:
    """Refuses an engine that is too far from the network it came from.

    Raises:
        ArtifactError: Names what differs and the first operation where they part.
    """
    if measured.fault is None:
        return
    place = "" if parted_at is None else f"; they first part at '{parted_at}'"
    raise ArtifactError(
        f"engine '{name}' does not compute its {measured.reference} network: "
        f"{measured.fault}{place}",
        hint="keep that operation in float, or try another engine; evaluate.parity holds the limits"
        if parted_at is not None
        else "evaluate.parity holds the limits",
    )
