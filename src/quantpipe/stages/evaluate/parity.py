"""Whether an engine computes what was trained: it and the network it came from on the same images.

No two of them agree to the bit: a value between two codes is rounded either way, the difference
grows through the network, and processors take activations on a grid twice as fine as the simulated
one. What is asked of an INT8 engine is therefore that it lie not much farther from the float
network than the fake-quantized network does. With a wrong or missing range, or a kernel that
computes something else, it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quantpipe.data.batches import num_batches
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.loader import evaluation_batches
from quantpipe.data.network_input import as_array
from quantpipe.errors import ArtifactError, DataError
from quantpipe.evaluation.accuracy import agreement_if_confident, detect
from quantpipe.evaluation.coco_map import score
from quantpipe.evaluation.dataset import image_sizes, objects_of
from quantpipe.evaluation.image_detections import ImageDetections
from quantpipe.evaluation.network import predictor
from quantpipe.evaluation.objects import Objects
from quantpipe.export.verify import Differences, averaged, box_extent, compare
from quantpipe.graph.suppression import Suppression
from quantpipe.progress import Progress
from quantpipe.quantization.model import Model
from quantpipe.report.variant import Parity
from quantpipe.stages.evaluate.config import ParitySettings
from quantpipe.stages.evaluate.variants import OpenVariant

_CONFIDENT = 0.3
FloatArray = NDArray[np.float32]


def measure_parity(
    variant: OpenVariant,
    loaded: Model,
    found: Sequence[ImageDetections],
    dataset: DetectionDataset,
    settings: ParitySettings,
    *,
    batch_size: int,
    suppression: Suppression,
    device: str,
    progress: Progress,
    description: str,
) -> tuple[Parity, str | None]:
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

    Returns:
        The record, and what is too far apart, or None. The record says nothing of distances where
        the engine gives detections, of agreement where the network is confident of nothing, and of
        mAP where the images show no object.
    """
    few = dataset.subset(range(min(settings.num_images, len(dataset.images))))
    mine = found[: len(few.images)]
    both = _Both(variant, loaded, device)
    reference = detect(
        both,
        as_array(variant.specification),
        evaluation_batches(few, specification=variant.specification, batch_size=batch_size),
        image_sizes(few),
        suppression=suppression,
        num_batches=num_batches(len(few.images), batch_size),
        description=description,
        progress=progress,
    )
    if variant.detects:
        reference = [_as_many(image, both.num_rows) for image in reference]
    agreed = agreement_if_confident(
        reference, mine, few.class_names, confidence=_confident(mine, variant.detects)
    )
    apart = both.distances(agreed)
    parity = Parity(
        reference="float" if loaded.scales is None else "fake-quantized",
        num_images=len(few.images),
        agreement=agreed,
        map_delta=_map_delta(reference, mine, objects_of(few)),
        **({} if apart.distance is None else asdict(apart.distance)),
    )
    return parity, fault_of(apart, variant.float_precision, settings)


def _as_many(image: ImageDetections, count: int) -> ImageDetections:
    """The most confident detections, as many as a graph with suppression hands out."""
    return replace(
        image, boxes=image.boxes[:count], scores=image.scores[:count], labels=image.labels[:count]
    )


def _confident(found: Sequence[ImageDetections], detects: bool) -> float:
    """What a detection of the network has to exceed to be missed where the engine lacks it.

    A graph with suppression hands out nothing below its own threshold, which is not known here: it
    is no higher than the least confident detection.
    """
    if not detects:
        return _CONFIDENT
    lowest = [float(image.scores.min()) for image in found if len(image.scores)]
    return max(_CONFIDENT, min(lowest, default=0.0))


def _map_delta(
    reference: Sequence[ImageDetections],
    candidate: Sequence[ImageDetections],
    objects: Objects,
) -> float | None:
    """The difference in mAP; None where the images show no object."""
    try:
        theirs, mine = (score(found, objects).map for found in (reference, candidate))
    except DataError:
        return None
    return mine - theirs


class _Both:
    """The network, which compares what it predicts with the engine's as images come by."""

    def __init__(self, variant: OpenVariant, loaded: Model, device: str):
        self._engine, self._detects = variant.predict, variant.detects
        self._network = predictor(loaded.quantized, device)
        self._original = None if loaded.scales is None else predictor(loaded.network, device)
        self._parts: dict[str, list[tuple[int, Differences]]] = {}
        self.box_extent = 1.0
        self.num_rows = 0

    def __call__(self, images: FloatArray) -> FloatArray:
        expected, actual = self._network(images), self._engine(images)
        self.box_extent = max(self.box_extent, box_extent(expected, images))
        self.num_rows = actual.shape[1]
        if not self._detects:
            self._add("distance", images, expected, actual)
            if self._original is not None:
                floats = self._original(images)
                self._add("effect", images, floats, expected)
                self._add("from_float", images, floats, actual)
        return expected

    def _add(self, name: str, images: FloatArray, one: FloatArray, other: FloatArray) -> None:
        self._parts.setdefault(name, []).append((len(images), compare(one, other)))

    def _whole(self, name: str) -> Differences | None:
        return averaged(self._parts[name]) if name in self._parts else None

    def distances(self, agreed: float | None) -> Distances:
        """All that was seen."""
        return Distances(
            distance=self._whole("distance"),
            effect=self._whole("effect"),
            from_float=self._whole("from_float"),
            box_extent=self.box_extent,
            agreement=agreed,
        )


@dataclass(frozen=True, kw_only=True)
class Distances:
    """How far an engine and its network are apart.

    Attributes:
        distance: Between their predictions; None where the engine gives detections instead.
        effect: Between the float network and the fake-quantized one; None for a float engine.
        from_float: Between the float network and the engine; None for a float engine.
        box_extent: Image sides that the largest box spans, at least 1.
        agreement: Of detections, or None.
    """

    distance: Differences | None
    effect: Differences | None
    from_float: Differences | None
    box_extent: float
    agreement: float | None


def fault_of(distances: Distances, float_precision: str, settings: ParitySettings) -> str | None:
    """Returns what is past its limit, or None.

    Args:
        distances: What was measured.
        float_precision: ``fp32`` or ``half``: what the float layers of the engine run in.
        settings: The limits. What an INT8 engine leaves in float may be as far off as a float
            engine, beyond what quantization does.
    """
    if distances.distance is None:
        if distances.agreement is None or distances.agreement >= settings.min_agreement:
            return None
        return f"detections agree to {distances.agreement:.3f}, less than {settings.min_agreement}"
    limits = settings.half if float_precision == "half" else settings.fp32
    boxes, scores = limits.box_mean_abs * distances.box_extent, limits.score_mean_abs
    mine, what = distances.distance, "the network"
    if distances.effect is not None and distances.from_float is not None:
        mine, what = distances.from_float, "the float network"
        boxes += settings.int8_limit * distances.effect.box_mean_abs
        scores += settings.int8_limit * distances.effect.score_mean_abs
    if mine.box_mean_abs > boxes:
        return f"boxes lie {mine.box_mean_abs:.3g} px from {what}'s on average, allowed {boxes:.3g}"
    if mine.score_mean_abs > scores:
        return f"scores lie {mine.score_mean_abs:.3g} from {what}'s, allowed {scores:.3g}"
    return None


def parity_error(name: str, reference: str, fault: str, diverged_at: str | None) -> ArtifactError:
    """Refuses an engine that is too far from the network it came from.

    Args:
        name: Of the engine.
        reference: What the network is, see :class:`Parity`.
        fault: What differs.
        diverged_at: The first operation after which they differ, where it was found.
    """
    place = "" if diverged_at is None else f"; they first part at '{diverged_at}'"
    return ArtifactError(
        f"engine '{name}' does not compute its {reference} network: {fault}{place}",
        hint="keep that operation in float, or try another engine; evaluate.parity holds the limits"
        if diverged_at is not None
        else "evaluate.parity holds the limits",
    )
